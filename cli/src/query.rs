//! `tidelake query`: one statement. Without one it is `tidelake sql`.

use std::path::PathBuf;

use clap::Args;

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::moment;
use crate::sql::ask::{self, Interrupts, ReadArgs};
use crate::sql::screen::Stdout;
use crate::sql::{self, SqlArgs, show};

#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    /// The statement; - reads it from standard input; without one it is `tidelake sql`
    sql: Option<String>,
    /// Read the statement from a file
    #[arg(short, long, conflicts_with = "sql")]
    file: Option<PathBuf>,
    /// Values of $1, $2, … as JSON (repeat for each)
    #[arg(short, long = "param", value_name = "JSON")]
    params: Vec<String>,
    #[command(flatten)]
    reads: ReadArgs,
}

pub(crate) async fn run(args: QueryArgs, global: &Global) -> Result<(), Failure> {
    let statement = match (&args.file, args.sql.as_deref()) {
        (Some(path), _) => std::fs::read_to_string(path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?,
        (None, Some("-")) => std::io::read_to_string(std::io::stdin())?,
        (None, Some(statement)) => statement.to_owned(),
        (None, None) if args.params.is_empty() => {
            return sql::run(SqlArgs::reading(args.reads), global).await;
        }
        (None, None) => {
            return Err(Failure::usage("values of parameters need a statement"));
        }
    };
    let client = Client::new(global)?;
    let mut interrupts = Interrupts::of_signals()?;
    let mut screen = Stdout::new(false);
    let body = args.reads.known(global).request(&statement, &args.params);
    let (id, begun) = (ask::fresh_id(), moment::now());
    let work = async {
        let response = ask::ask(&client, &id, &body, global.output).await?;
        show::show(response, global.output, &mut screen, begun).await
    };
    let came = ask::unless_interrupted(&client, &id, &mut interrupts, work).await;
    came.map(|_came| ())
}
