"""Runs statements with Spark on Delta tables; asked by lines of standard input, JSON objects of
`folder`, `version` (or null) and `sql`, in which `{t}` is the table. Answers each with a line: `rows`
(a list of objects), or `error`.

Usage: JARS
"""

import glob
import json
import sys

from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.jars", ",".join(glob.glob(f"{sys.argv[1]}/*.jar")))
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "2")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.databricks.delta.snapshotPartitions", "2")
    # VACUUM without a grace is what the test is about.
    .config("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    .getOrCreate()
)


def answer(folder, version, sql):
    table = f"delta.`{folder}`"
    if sql.startswith("SELECT") and version is not None:
        table += f" VERSION AS OF {version}"
    found = spark.sql(sql.replace("{t}", table)).collect()
    return [row.asDict() for row in found] if sql.startswith("SELECT") else []


for line in sys.stdin:
    try:
        said = {"rows": answer(**json.loads(line))}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"[:1000]}
    print(json.dumps(said), flush=True)
