//! Who is measured: fanin in its modes, the peers, and the direct path.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::scenario::{Scenario, Settings};

const HAPROXY: &str = include_str!("../peers/haproxy.cfg");
const HAPROXY_SPLICE: &str = include_str!("../peers/haproxy-splice.cfg");
const NGINX: &str = include_str!("../peers/nginx.conf");
const FANIN: &str = include_str!("../peers/fanin.toml");
const FANIN_PROXY: &str = include_str!("../peers/fanin-proxy.toml");
const SQUID: &str = include_str!("../peers/squid.conf");

/// Where Debian's package puts it; a build that has it inside needs none.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A relay, or none.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) role: Role,
    program: PathBuf,
    template: &'static str,
    file: &'static str,
    /// Whether it is a web proxy; others relay bytes.
    is_web_proxy: bool,
    /// Of fanin.
    settings: Settings,
}

/// What a subject is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// No relay: load straight to the servers.
    Direct,
    /// What is to be ahead.
    Fanin,
    /// What it is held against.
    Peer,
}

/// Where a relay listens and whom it relays to.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) listens: &'a [SocketAddr],
    pub(crate) servers: &'a [SocketAddr],
    /// An empty folder of its own.
    pub(crate) directory: &'a Path,
    pub(crate) buffer_bytes: usize,
}

/// The fanin that was asked for, or else the one beside this program.
///
/// # Errors
/// When this program cannot be found.
pub(crate) fn fanin(asked: Option<&Path>) -> Result<PathBuf, Error> {
    let beside = || {
        let own = std::env::current_exe().map_err(Error::at("cannot find my own program"))?;
        Ok(own.with_file_name("fanin"))
    };
    asked.map_or_else(beside, |path| Ok(path.to_owned()))
}

/// All subjects, in the order of the first round.
pub(crate) fn all(fanin: &Path, rival: Option<&Path>) -> Vec<Subject> {
    let mut subjects = vec![Subject::plain("direct", Role::Direct, "", "", "")];
    for (prefix, program) in [("fanin", Some(fanin)), ("rival", rival)] {
        let Some(program) = program else { continue };
        for engine in ["epoll", "io_uring"] {
            for splice in ["auto", "always", "never"] {
                let name = format!("{prefix}-{engine}-{splice}");
                subjects.push(Subject::fanin(name, program, FANIN, engine, splice));
            }
        }
        for engine in ["epoll", "io_uring"] {
            let name = format!("{prefix}-proxy-{engine}");
            let subject = Subject::fanin(name, program, FANIN_PROXY, engine, "auto");
            subjects.push(Subject { is_web_proxy: true, ..subject });
        }
    }
    subjects.extend([
        Subject::plain("haproxy", Role::Peer, "haproxy", HAPROXY, "haproxy.cfg"),
        Subject::plain("haproxy-splice", Role::Peer, "haproxy", HAPROXY_SPLICE, "haproxy.cfg"),
        Subject::plain("nginx", Role::Peer, "nginx", NGINX, "nginx.conf"),
    ]);
    let squid = Subject::plain("squid", Role::Peer, "squid", SQUID, "squid.conf");
    subjects.push(Subject { is_web_proxy: true, ..squid });
    subjects
}

/// Those that a scenario is for, with their variants, as far as they are asked for (`only`, as in
/// [`chosen`]).
///
/// # Errors
/// When the scenario names one that cannot do its work.
pub(crate) fn of(
    scenario: &Scenario,
    all: &[Subject],
    only: &[String],
) -> Result<Vec<Subject>, Error> {
    let proxied = scenario.work.kind.is_of_web_proxies();
    let able = all.iter().filter(|subject| subject.is_web_proxy == proxied).cloned().collect();
    let named = chosen(able, &scenario.subjects)
        .map_err(Error::at(format!("{}: subjects", scenario.name)))?;
    let common = Settings { global: scenario.fanin.clone(), ..Settings::default() };
    let mut found = Vec::new();
    for subject in named {
        if subject.role != Role::Fanin {
            found.push(subject);
            continue;
        }
        let subject = subject.with("", &common);
        let variants = scenario.variants.iter();
        let variants: Vec<_> =
            variants.map(|(name, settings)| subject.with(&format!("+{name}"), settings)).collect();
        found.push(subject);
        found.extend(variants);
    }
    let names: Vec<_> = found.iter().map(|subject| subject.name.clone()).collect();
    found.retain(|subject| {
        only.is_empty() || only.iter().any(|word| picks(word, &subject.name, &names))
    });
    Ok(found)
}

/// Those that were asked for: by name, or else by the beginning of their names.
///
/// # Errors
/// When a word names none.
pub(crate) fn chosen(all: Vec<Subject>, only: &[String]) -> Result<Vec<Subject>, Error> {
    let names: Vec<_> = all.iter().map(|subject| subject.name.clone()).collect();
    let unknown = |word: &&String| !names.iter().any(|name| picks(word, name, &names));
    if let Some(word) = only.iter().find(unknown) {
        let names = names.join(", ");
        return Err(Error(format!("{word}: no subject begins so; there are {names}")));
    }
    let wanted = |subject: &Subject| {
        only.is_empty() || only.iter().any(|word| picks(word, &subject.name, &names))
    };
    Ok(all.into_iter().filter(wanted).collect())
}

/// Whether a word means `name`, which is one of `names`.
fn picks(word: &str, name: &str, names: &[String]) -> bool {
    if names.iter().any(|other| other == word) { name == word } else { name.starts_with(word) }
}

impl Subject {
    fn plain(
        name: &str,
        role: Role,
        program: &str,
        template: &'static str,
        file: &'static str,
    ) -> Self {
        let program = PathBuf::from(program);
        let settings = Settings::default();
        Self { name: name.to_owned(), role, program, template, file, is_web_proxy: false, settings }
    }

    /// One worker, since a subject is measured on one CPU.
    fn fanin(
        name: String,
        program: &Path,
        template: &'static str,
        engine: &str,
        splice: &str,
    ) -> Self {
        let mut subject = Self::plain(&name, Role::Fanin, "", template, "fanin.toml");
        subject.program = program.to_owned();
        subject.settings.global.extend([
            ("workers".to_owned(), 1.into()),
            ("engine".to_owned(), engine.into()),
            ("splice".to_owned(), splice.into()),
            ("drain".to_owned(), "1s".into()),
        ]);
        subject
    }

    /// The same with further settings.
    fn with(&self, ending: &str, settings: &Settings) -> Self {
        let mut subject = Self { name: format!("{}{ending}", self.name), ..self.clone() };
        subject.settings.global.extend(settings.global.clone());
        subject.settings.backend.extend(settings.backend.clone());
        subject
    }

    /// What it says of its version; nothing on the direct path.
    ///
    /// # Errors
    /// When it is not there, with the remedy.
    pub(crate) fn version(&self) -> Result<Option<String>, Error> {
        if self.role == Role::Direct {
            return Ok(None);
        }
        let (flag, remedy) = match self.role {
            Role::Fanin => ("--version", "build it: cargo build --release".to_owned()),
            _ => ("-v", format!("apt-get install {}", self.packages())),
        };
        let output = Command::new(&self.program).arg(flag).output().map_err(|error| {
            Error(format!("{} cannot be run ({error}); {remedy}", self.program.display()))
        })?;
        // nginx tells it on standard error.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or_default();
        Ok(Some(line.trim_end_matches(" - https://haproxy.org/").to_owned()))
    }

    fn packages(&self) -> &'static str {
        match self.name.as_str() {
            "nginx" => "nginx libnginx-mod-stream",
            "squid" => "squid",
            _ => "haproxy",
        }
    }

    /// Writes its configuration and says how it is run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn command(&self, place: &Place<'_>) -> Result<(&Path, Vec<OsString>), Error> {
        let file = place.directory.join(self.file);
        std::fs::write(&file, self.configuration(place))
            .map_err(Error::at(format!("{}", file.display())))?;
        let words: &[&str] = match (self.role, self.name.as_str()) {
            (Role::Fanin, _) => &["run", "-c"],
            (_, "nginx") => &["-c"],
            (_, "squid") => &["-N", "-f"],
            _ => &["-db", "-f"],
        };
        let arguments = words.iter().map(OsString::from).chain([file.into_os_string()]).collect();
        Ok((&self.program, arguments))
    }

    /// Connections that each worker of a fanin has accepted, which it tells through the socket in its
    /// folder; nothing of others.
    pub(crate) fn accepted_by_worker(&self, directory: &Path) -> Vec<u64> {
        if self.role != Role::Fanin {
            return Vec::new();
        }
        let socket = directory.join("fanin.sock");
        let output = Command::new(&self.program)
            .args(["status", "--json", "--control"])
            .arg(socket)
            .output();
        let status: Option<serde_json::Value> =
            output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok());
        let workers = status.as_ref().and_then(|status| status["workers"].as_array());
        let accepted = |worker: &serde_json::Value| worker["accepted"].as_u64();
        workers.map_or_else(Vec::new, |workers| workers.iter().filter_map(accepted).collect())
    }

    /// Its template, filled in.
    fn configuration(&self, place: &Place<'_>) -> String {
        let each = |addresses: &[SocketAddr], line: &dyn Fn(usize, &SocketAddr) -> String| {
            let lines = addresses.iter().enumerate().map(|(n, address)| line(n, address));
            lines.collect::<Vec<_>>().join("\n")
        };
        let module = if Path::new(NGINX_STREAM_MODULE).exists() {
            format!("load_module {NGINX_STREAM_MODULE};")
        } else {
            String::new()
        };
        let quoted = |addresses: &[SocketAddr]| {
            let words: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
            words.join(", ")
        };
        let fields = [
            ("@directory@", place.directory.display().to_string()),
            ("@buffer_bytes@", place.buffer_bytes.to_string()),
            ("@fanin_global@", lines(&self.settings.global)),
            ("@fanin_backend@", lines(&self.settings.backend)),
            ("@fanin_binds@", quoted(place.listens)),
            ("@fanin_destinations@", quoted(place.servers)),
            (
                "@fanin_servers@",
                each(place.servers, &|_, to| {
                    format!("[[backend.servers.server]]\naddress = \"{to}\"\n")
                }),
            ),
            ("@haproxy_binds@", each(place.listens, &|_, at| format!("    bind {at}"))),
            ("@haproxy_servers@", each(place.servers, &|n, to| format!("    server s{n} {to}"))),
            ("@nginx_load_module@", module),
            (
                "@nginx_listens@",
                each(place.listens, &|_, at| format!("        listen {at} backlog=4096;")),
            ),
            ("@squid_listens@", each(place.listens, &|_, at| format!("http_port {at}"))),
            ("@nginx_servers@", each(place.servers, &|_, to| format!("        server {to};"))),
        ];
        fields
            .iter()
            .fold(self.template.to_owned(), |text, (field, value)| text.replace(field, value))
    }
}

/// A setting a line, tables in braces: what follows is still of the table around them.
fn lines(settings: &toml::Table) -> String {
    settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_filled_in_whole() {
        let addresses: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(); 2];
        let directory = Path::new("/nowhere");
        let place =
            Place { listens: &addresses, servers: &addresses, directory, buffer_bytes: 16_384 };
        for mut subject in all(Path::new("fanin"), None) {
            let spare = toml::Table::from_iter([("max".to_owned(), 64.into())]);
            subject.settings.backend.insert("spare".into(), spare.into());
            let text = subject.configuration(&place);
            assert!(!text.contains('@'), "{}: {text}", subject.name);
            assert_eq!(text.is_empty(), subject.role == Role::Direct);
            assert_eq!(text.contains("spare = { max = 64 }"), text.contains("[backend.servers]"));
        }
    }

    #[test]
    fn a_whole_name_chooses_one_and_a_beginning_chooses_many() {
        let names = |only: &str| -> Vec<String> {
            let chosen = chosen(all(Path::new("fanin"), None), &[only.to_owned()]).unwrap();
            chosen.into_iter().map(|subject| subject.name).collect()
        };
        assert_eq!(names("haproxy"), ["haproxy"]);
        assert_eq!(names("fanin-epoll").len(), 3);
        let refused = chosen(all(Path::new("fanin"), None), &["traefik".to_owned()]);
        assert!(refused.unwrap_err().to_string().contains("haproxy-splice"));
    }
}
