//! The command line: what can be asked of the program, and what `check` answers. The rest is done by [`crate::app`],
//! [`crate::explain`], [`crate::init`] and [`crate::demo`].

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Problems, Source, Validity};
use crate::explain::{self, Input, Knowledge};
use crate::init::{self, GivenUrl};
use crate::{app, demo};

/// PostgreSQL query-routing load balancer: writes to the primary, reads over fresh replicas, pooled, failover followed.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until a signal ends it.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration and the files it names; every problem is printed with its line.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Look at a running cluster, and write a configuration for it.
    Init(Init),
    /// Say where statements would go, and why.
    Explain(Explain),
    /// Start a primary, two replicas and Trunkline before them, from the PostgreSQL found on this machine.
    Demo {
        /// How long it goes on; default: until Ctrl-C. Half way, or after 10 s, the primary is killed.
        #[arg(long, value_name = "N", default_value_t = 86_400, hide_default_value = true, value_parser = clap::value_parser!(u64).range(6..=86_400))]
        seconds: u64,
    },
}

#[derive(Debug, Args)]
struct Init {
    /// Any node, or several, and who asks: postgres://user:password@host:port/database as libpq has it. Without a password,
    /// that of PGPASSWORD; default port 5432, default database the user's name.
    #[arg(long, value_name = "URL")]
    from: GivenUrl,
    /// A new file, with the password in another one beside it; default: standard output, and the password is to be in PGPASSWORD.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Explain {
    /// The configuration file: the running cluster and the rules are asked too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database as clients name it; default: the first that the configuration names.
    #[arg(long, value_name = "NAME", requires = "config")]
    database: Option<String>,
    /// Who asks, for rules, search paths and pool modes; default: the first user of the configuration.
    #[arg(long, value_name = "NAME", requires = "config")]
    user: Option<String>,
    /// Lines of JSON, each a query string or an array of them that is one session; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "sql")]
    json: Option<PathBuf>,
    /// The statement; without it, standard input is read.
    sql: Option<String>,
}

/// Parses the arguments and does what they ask; a mistake in them ends the process with status 2.
pub fn main() -> ExitCode {
    match Cli::parse().command.dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trunkline: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn dispatch(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Self::Run { config } => run(config),
            Self::Check { config } => Ok(check(&config, &mut io::stdout(), &mut io::stderr())?),
            Self::Init(init) => init.answer(),
            Self::Explain(explain) => explain.answer(),
            Self::Demo { seconds } => Ok(demo::run(Duration::from_secs(seconds))?),
        }
    }
}

fn run(path: PathBuf) -> Result<ExitCode, Box<dyn Error>> {
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(problems) => return Ok(refuse(&problems, &mut io::stderr())?),
    };
    app::run(config, Source(path))?;
    Ok(ExitCode::SUCCESS)
}

/// Every problem on `complaints`, one a line, or what the configuration comes to on `answer`; what ends soon is no problem of
/// it, and is said on both. What may be meant otherwise ([`Config::warnings`]) is no problem either, and is said on `complaints`.
fn check(path: &Path, answer: &mut dyn Write, complaints: &mut dyn Write) -> io::Result<ExitCode> {
    match config::load(path) {
        Ok(config) => {
            writeln!(answer, "{}: ok\n{}", path.display(), summary(&config))?;
            for certificate in &config.certificates {
                writeln!(answer, "{certificate} ends {}", certificate.ends)?;
                let when = match certificate.validity(SystemTime::now()) {
                    Validity::Good => continue,
                    Validity::EndsSoon => "ends within 14 days",
                    Validity::Ended => "has ended",
                };
                writeln!(complaints, "warning: {certificate} {when}")?;
            }
            for warning in config.warnings() {
                writeln!(complaints, "warning: {warning}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => refuse(&problems, complaints),
    }
}

impl Init {
    fn answer(self) -> Result<ExitCode, Box<dyn Error>> {
        let url = match self.from.read(std::env::var("PGPASSWORD").ok()) {
            Ok(url) => url,
            Err(problem) => {
                // Not by clap, which would show the URL.
                eprintln!("trunkline: --from: {problem}");
                return Ok(ExitCode::from(MISTAKE));
            }
        };
        init::run(&url, self.output.as_deref())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Explain {
    fn answer(self) -> Result<ExitCode, Box<dyn Error>> {
        let knowledge = match self.config {
            None => Knowledge::None,
            Some(path) => match config::load(&path) {
                Ok(config) => Knowledge::Cluster { config: Box::new(config), database: self.database, user: self.user },
                Err(problems) => return Ok(refuse(&problems, &mut io::stderr())?),
            },
        };
        let input = match (self.json, self.sql) {
            (Some(path), _) if path == Path::new("-") => Input::JsonLines(Box::new(io::stdin().lock())),
            (Some(path), _) => {
                let file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                Input::JsonLines(Box::new(io::BufReader::new(file)))
            }
            (None, Some(sql)) => Input::Statement(sql),
            (None, None) => Input::Statement(io::read_to_string(io::stdin())?),
        };
        explain::run(knowledge, input)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn refuse(problems: &Problems, complaints: &mut dyn Write) -> io::Result<ExitCode> {
    writeln!(complaints, "{problems}")?;
    Ok(ExitCode::FAILURE)
}

fn summary(config: &Config) -> String {
    let nodes = config.clusters.iter().map(|cluster| cluster.nodes.len()).sum();
    let addresses = config.listen.iter().map(ToString::to_string);
    let sockets = config.listen_sockets.iter().map(|path| path.display().to_string());
    let listen: Vec<String> = addresses.chain(sockets).collect();
    format!(
        "{} with {}, {}, {}, {}; clients at {}",
        counted(config.clusters.len(), "cluster"),
        counted(nodes, "node"),
        counted(config.databases.len(), "database"),
        counted(config.users.len(), "user"),
        counted(config.routing.rules.rules().len(), "rule"),
        listen.join(", ")
    )
}

fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// The status of a mistake in the arguments, clap's own.
const MISTAKE: u8 = 2;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_man_page_has_each_subcommand_and_option() {
        let page = include_str!("../packaging/trunkline.1").replace("\\-", "-");
        let lacks = |word: &String| !page.contains(word);
        for command in Cli::command().get_subcommands() {
            let name = format!("\n.B {}\n", command.get_name());
            let options = command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("--{long}"));
            let missing: Vec<_> = options.chain([name]).filter(lacks).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }

    #[test]
    fn the_fixed_commands_are_understood() {
        for line in [
            "trunkline run --config F",
            "trunkline check --config F",
            "trunkline init --from postgres://u:p@h/d",
            "trunkline init --from postgres://u:p@h/d --output F",
            "trunkline explain SELECT",
            "trunkline explain --config F SELECT",
            "trunkline explain --json -",
            "trunkline explain --config F --database D --user U --json -",
            "trunkline demo",
            "trunkline demo --seconds 60",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_mistake_in_the_arguments_has_status_2() {
        for line in [
            "trunkline",
            "trunkline run",
            "trunkline serve",
            "trunkline init",
            "trunkline explain --database D SELECT",
            "trunkline explain --user U SELECT",
            "trunkline explain --json - SELECT",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parse("trunkline --version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn check_says_ok_with_a_summary_or_every_problem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        std::fs::write(&path, include_str!("../tests/golden/config/reference.toml")).unwrap();
        let (mut answer, mut complaints) = (Vec::new(), Vec::new());
        assert_eq!(check(&path, &mut answer, &mut complaints).unwrap(), ExitCode::SUCCESS);
        let words = "1 cluster with 3 nodes, 1 database, 1 user, 0 rules; clients at 127.0.0.1:6432";
        assert_eq!(String::from_utf8(answer).unwrap(), format!("{}: ok\n{words}\n", path.display()));

        let console = "[auth]\nhba = ['host all all all md5',\n 'host pgbouncer all all trust']";
        std::fs::write(&path, format!("{}\n{console}", include_str!("../tests/golden/config/reference.toml"))).unwrap();
        let mut warned = Vec::new();
        assert_eq!(check(&path, &mut Vec::new(), &mut warned).unwrap(), ExitCode::SUCCESS);
        let line = std::fs::read_to_string(&path).unwrap().lines().count();
        let words = "the console's database is trunkline in access rules, not pgbouncer";
        assert_eq!(String::from_utf8(warned).unwrap(), format!("warning: {}:{line}: {words}\n", path.display()));

        std::fs::write(&path, "listen = []\nworkers = 0").unwrap();
        let mut answer = Vec::new();
        assert_eq!(check(&path, &mut answer, &mut complaints).unwrap(), ExitCode::FAILURE);
        assert_eq!((answer.len(), String::from_utf8(complaints).unwrap().lines().count()), (0, 5));
    }
}
