//! `tidelake completions SHELL`: a script that completes commands and flags.
//!
//! The script holds the words that can follow each command; files complete where no word does.

use std::fmt::Write;

use clap::{Args, Command, CommandFactory, ValueEnum};

use crate::failure::Failure;
use crate::output::say;

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut command = crate::Cli::command();
    command.build();
    let script = match args.shell {
        Shell::Bash => bash(&command),
        Shell::Zsh => format!(
            "autoload -U +X bashcompinit && bashcompinit\n{}",
            bash(&command)
        ),
        Shell::Fish => fish(&command),
    };
    say(script.trim_end())
}

/// Every command path with the words that can follow it.
fn words(command: &Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
    let mut list: Vec<String> = Vec::new();
    for child in command
        .get_subcommands()
        .filter(|child| !child.is_hide_set())
    {
        list.push(child.get_name().to_owned());
    }
    let flags = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    list.extend(flags.filter_map(|argument| Some(format!("--{}", argument.get_long()?))));
    found.push((path.to_owned(), list));
    for child in command
        .get_subcommands()
        .filter(|child| !child.is_hide_set())
    {
        words(child, &format!("{path} {}", child.get_name()), found);
    }
}

fn bash(command: &Command) -> String {
    let mut found = Vec::new();
    words(command, command.get_name(), &mut found);
    let mut script = String::from(
        "_tidelake() {\n  local word path=tidelake current=${COMP_WORDS[COMP_CWORD]} words=\n  \
         for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case \"$path $word\" in\n",
    );
    for (path, _) in found.iter().skip(1) {
        let _infallible = writeln!(script, "      \"{path}\") path=\"{path}\" ;;");
    }
    script.push_str("    esac\n  done\n  case $path in\n");
    for (path, list) in &found {
        let _infallible = writeln!(script, "    \"{path}\") words=\"{}\" ;;", list.join(" "));
    }
    script.push_str(
        "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}\n\
         complete -o default -F _tidelake tidelake\n",
    );
    script
}

fn fish(command: &Command) -> String {
    let mut found = Vec::new();
    words(command, command.get_name(), &mut found);
    let mut script = String::new();
    for (path, list) in &found {
        let seen: Vec<&str> = path.split(' ').skip(1).collect();
        let prefix = format!("{path} ");
        let children = found
            .iter()
            .filter_map(|(other, _)| other.strip_prefix(&prefix));
        let children: Vec<&str> = children.filter(|child| !child.contains(' ')).collect();
        let mut condition: Vec<String> = seen
            .iter()
            .map(|word| format!("__fish_seen_subcommand_from {word}"))
            .collect();
        if !children.is_empty() {
            condition.push(format!(
                "not __fish_seen_subcommand_from {}",
                children.join(" ")
            ));
        }
        for word in list {
            let what = match word.strip_prefix("--") {
                Some(flag) => format!("-l {flag}"),
                None => format!("-f -a {word}"),
            };
            let _infallible = writeln!(
                script,
                "complete -c tidelake -n '{}' {what}",
                condition.join("; and ")
            );
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_commands_flags_and_nothing_hidden() {
        let mut command = crate::Cli::command();
        command.build();
        let script = bash(&command);
        assert!(
            script.contains("\"tidelake table create\") words=\"--schema --column"),
            "{script}"
        );
        assert!(script.contains("\"tidelake serve flusher\")"));
        assert!(!script.contains("demo"));
        assert!(fish(&command).contains("-f -a describe"));
    }
}
