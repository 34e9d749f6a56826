//! Flags from a file: `--config squint.toml`, or a model that squint wrote.
//!
//! A key is a flag without its dashes: `method = "mse"`, `power-of-two = true`, `data = ["a", "b"]`. Keys at the top
//! hold for every command that has such a flag, those in a table of a command's name, `[quantize]` or `["qat export"]`, for
//! that command.
//! Each `[[override]]` is a table: `for` is the pattern, the other keys are wishes (`range = [-1, 3]`, `float = true`).
//! What the command line says itself comes before the file; lists that add up (`override`, `keep-float`) do.
//! A model that squint wrote carries what it was made with, in the same form.

use super::failure::Failure;
use clap::{ArgAction, Command};
use squint::passes::overrides::nearest;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use toml::{Table, Value};

/// The flag that names the file.
const FLAG: &str = "--config";
/// Flags whose values add up.
const LISTS: [&str; 2] = ["override", "keep-float"];
/// The entry of a model's metadata that holds what it was made with.
const METADATA: &str = "squint.config";

/// The command line with the flags of the configuration file put in behind the command's name, if one is named.
///
/// # Errors
/// If the file cannot be read, or says something that no command knows.
pub(super) fn expand(arguments: Vec<OsString>, cli: &Command) -> Result<Vec<OsString>, Failure> {
    let Some(file) = named(&arguments) else { return Ok(arguments) };
    let is_command = |a: &OsString| cli.get_subcommands().any(|c| a == OsStr::new(c.get_name()));
    let Some(mut at) = arguments.iter().skip(1).position(is_command).map(|i| i + 1) else {
        return Ok(arguments);
    };
    let path = Path::new(&file);
    let failed = |why: String| Failure::new(format!("configuration `{}`: {why}", path.display()));
    let table: Table =
        text(path)?.parse().map_err(|e: toml::de::Error| failed(e.to_string().trim_end().into()))?;
    let mut command = arguments[at].to_string_lossy().into_owned();
    while let Some(next) = arguments.get(at + 1).map(|a| format!("{command} {}", a.to_string_lossy()))
        && find(cli, &next).is_some()
    {
        (command, at) = (next, at + 1);
    }
    let given = &arguments[at + 1..];
    let flags = flags(&table, &command, cli, given).map_err(failed)?;
    let (head, tail) = arguments.split_at(at + 1);
    Ok(head.iter().cloned().chain(flags.into_iter().map(Into::into)).chain(tail.iter().cloned()).collect())
}

/// The file that the command line names.
fn named(arguments: &[OsString]) -> Option<OsString> {
    let behind = arguments.iter().position(|a| a == FLAG).and_then(|i| arguments.get(i + 1).cloned());
    let joined = || {
        let found = arguments.iter().find_map(|a| a.to_str()?.strip_prefix("--config="));
        found.map(OsString::from)
    };
    behind.or_else(joined)
}

/// The text of a configuration, or what a model carries.
fn text(path: &Path) -> Result<String, Failure> {
    let is_model = path.extension().is_some_and(|e| e == "onnx") || squint::is_text(path);
    if is_model {
        let model = squint::load(path)?;
        return model.metadata_value(METADATA).map(str::to_owned).ok_or_else(|| {
            let what = format!("`{}` does not say how it was made: squint did not write it", path.display());
            Failure::new(what)
        });
    }
    std::fs::read_to_string(path)
        .map_err(|e| Failure::new(format!("cannot read configuration `{}`: {e}", path.display())))
}

/// The flags that a file means for a command, but those that the command line gives itself.
fn flags(table: &Table, command: &str, cli: &Command, given: &[OsString]) -> Result<Vec<String>, String> {
    let own = find(cli, command).ok_or("no command is named")?;
    let mut out = Vec::new();
    for (key, value) in table {
        if let Value::Table(inner) = value {
            if find(cli, key).is_none() {
                return Err(unknown(key, "command", cli.get_subcommands().map(Command::get_name)));
            }
            for (key, value) in inner.iter().filter(|_| key == command) {
                let known = own.get_arguments().any(|a| a.get_long() == Some(key));
                if !known {
                    let flags = own.get_arguments().filter_map(clap::Arg::get_long);
                    return Err(format!("[{command}]: {}", unknown(key, "flag", flags)));
                }
                flag(own, key, value, given, &mut out)?;
            }
            continue;
        }
        if own.get_arguments().any(|a| a.get_long() == Some(key)) {
            flag(own, key, value, given, &mut out)?;
        } else if !every_flag(cli).any(|f| f == key) {
            return Err(unknown(key, "flag", every_flag(cli)));
        }
    }
    Ok(out)
}

/// The command of a name, `quantize`, or of several names, `qat export`.
fn find<'a>(cli: &'a Command, names: &str) -> Option<&'a Command> {
    names.split(' ').try_fold(cli, |command, name| command.find_subcommand(name))
}

fn every_flag(cli: &Command) -> impl Iterator<Item = &str> {
    let inner = cli.get_subcommands().flat_map(Command::get_subcommands);
    cli.get_subcommands().chain(inner).flat_map(Command::get_arguments).filter_map(clap::Arg::get_long)
}

fn unknown<'a>(key: &str, what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut alike = nearest(key, names);
    alike.dedup();
    match alike.first() {
        Some(first) => format!("there is no {what} `{key}`; did you mean `{first}`?"),
        None => format!("there is no {what} `{key}`"),
    }
}

/// Adds the words of one flag.
fn flag(
    command: &Command,
    key: &str,
    value: &Value,
    given: &[OsString],
    out: &mut Vec<String>,
) -> Result<(), String> {
    let arg = command.get_arguments().find(|a| a.get_long() == Some(key));
    let short = arg.and_then(clap::Arg::get_short).map(|c| format!("-{c}"));
    let long = format!("--{key}");
    let is_given = |a: &OsString| {
        let a = a.to_string_lossy();
        a == long.as_str() || a.starts_with(&format!("{long}=")) || Some(&*a) == short.as_deref()
    };
    if !LISTS.contains(&key) && given.iter().any(is_given) {
        return Ok(());
    }
    let takes_value = arg.is_some_and(|a| matches!(a.get_action(), ArgAction::Set | ArgAction::Append));
    match value {
        Value::Boolean(on) if !takes_value => out.extend(on.then_some(long)),
        Value::Array(items) if takes_value => {
            for item in items {
                out.push(format!("{long}={}", word(key, item)?));
            }
        }
        value if takes_value => out.push(format!("{long}={}", word(key, value)?)),
        _ => return Err(format!("`{key}` is true or false")),
    }
    Ok(())
}

/// A value as it is written on the command line.
fn word(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Integer(i) => Ok(i.to_string()),
        Value::Float(x) => Ok(x.to_string()),
        Value::Table(t) if key == "override" => wishes(t),
        other => Err(format!("`{key}` cannot be {}", other.type_str())),
    }
}

/// An `[[override]]` as one word.
fn wishes(table: &Table) -> Result<String, String> {
    let pattern =
        table.get("for").and_then(Value::as_str).ok_or("an `[[override]]` needs `for = \"PATTERN\"`")?;
    let mut wishes = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| *key != "for") {
        wishes.push(match value {
            Value::Boolean(on) => format!("{key}={}", if *on { "yes" } else { "no" }),
            Value::Array(ends) => {
                let ends: Vec<String> = ends.iter().map(|e| word(key, e)).collect::<Result<_, _>>()?;
                format!("{key}={}", ends.join(".."))
            }
            value => format!("{key}={}", word(key, value)?),
        });
    }
    Ok(format!("{pattern}: {}", wishes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn cli() -> Command {
        let text = |name: &'static str| Arg::new(name).long(name).action(ArgAction::Append);
        let quantize = Command::new("quantize")
            .arg(text("method"))
            .arg(text("override"))
            .arg(text("data"))
            .arg(Arg::new("output").long("output").short('o'))
            .arg(Arg::new("power-of-two").long("power-of-two").action(ArgAction::SetTrue));
        let export = Command::new("export").arg(text("bits"));
        let qat = Command::new("qat").subcommand(export);
        Command::new("squint")
            .subcommand(quantize)
            .subcommand(qat)
            .subcommand(Command::new("print").arg(text("facts")))
    }

    fn words(file: &str, given: &[&str]) -> Result<Vec<String>, String> {
        let given: Vec<OsString> = given.iter().map(|g| (*g).into()).collect();
        flags(&file.parse().unwrap(), "quantize", &cli(), &given)
    }

    #[test]
    fn keys_are_flags() {
        let file = "method = \"mse\"\nfacts = \"x\"\npower-of-two = true\ndata = [\"a\", \"b\"]\n[quantize]\noutput = \"q\"";
        let all = ["--method=mse", "--power-of-two", "--data=a", "--data=b", "--output=q"];
        let mut found = words(file, &[]).unwrap();
        found.sort();
        let mut expected = all.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let found = words(file, &["--method", "minmax", "-o", "p", "--data=c"]).unwrap();
        assert_eq!(found, ["--power-of-two"]);
    }

    #[test]
    fn commands_within_commands_are_named_by_both() {
        let file = "method = \"mse\"\nbits = 8\n[\"qat export\"]\nbits = 4";
        let given: Vec<OsString> = Vec::new();
        let found = flags(&file.parse().unwrap(), "qat export", &cli(), &given).unwrap();
        assert_eq!(found, ["--bits=8", "--bits=4"]);
        assert_eq!(words(file, &[]).unwrap(), ["--method=mse"]);
    }

    #[test]
    fn overrides_are_tables() {
        let file =
            "[[override]]\nfor = \"tensor=a\"\nrange = [-1.5, 3]\n[[override]]\nfor = \"b\"\nfloat = true";
        let found = words(file, &["--override", "c: float"]).unwrap();
        assert_eq!(found, ["--override=tensor=a: range=-1.5..3", "--override=b: float=yes"]);
        assert!(words("[[override]]\nfloat = true", &[]).unwrap_err().contains("needs `for"));
    }

    #[test]
    fn what_no_command_knows_is_an_error() {
        assert_eq!(words("metod = 1", &[]).unwrap_err(), "there is no flag `metod`; did you mean `method`?");
        assert_eq!(
            words("[quantise]", &[]).unwrap_err(),
            "there is no command `quantise`; did you mean `quantize`?"
        );
        assert!(
            words("[quantize]\nfacts = \"x\"", &[]).unwrap_err().starts_with("[quantize]: there is no flag")
        );
        assert!(words("method = 1979-05-27", &[]).unwrap_err().contains("cannot be datetime"));
        assert!(words("power-of-two = 3", &[]).unwrap_err().contains("true or false"));
    }
}
