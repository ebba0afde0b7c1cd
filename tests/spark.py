"""Runs a statement with Spark on a Delta table called t; prints rows as JSON lines.

Usage: JARS FOLDER VERSION-or-empty SQL
"""

import glob
import json
import sys

from pyspark.sql import SparkSession

jars, folder, version, sql = sys.argv[1:5]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.jars", ",".join(glob.glob(f"{jars}/*.jar")))
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "2")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .getOrCreate()
)
if sql.startswith("SELECT"):
    reader = spark.read.format("delta")
    if version:
        reader = reader.option("versionAsOf", int(version))
    reader.load(folder).createOrReplaceTempView("t")
    for row in spark.sql(sql).collect():
        print(json.dumps(row.asDict()))
else:
    spark.sql(sql.replace(" t ", f" delta.`{folder}` "))
