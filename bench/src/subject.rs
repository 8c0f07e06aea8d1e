//! Who is measured: fanin in its modes, the peers, and the direct path.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

const HAPROXY: &str = include_str!("../peers/haproxy.cfg");
const HAPROXY_SPLICE: &str = include_str!("../peers/haproxy-splice.cfg");
const NGINX: &str = include_str!("../peers/nginx.conf");
const FANIN: &str = include_str!("../peers/fanin.toml");

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
    /// The engine and the splice mode of fanin.
    mode: Option<(&'static str, &'static str)>,
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
    /// See [`Scenario::fanin`](crate::scenario::Scenario).
    pub(crate) fanin_settings: &'a BTreeMap<String, String>,
}

/// All subjects, in the order of the first round.
pub(crate) fn all(fanin: &Path, rival: Option<&Path>) -> Vec<Subject> {
    let mut subjects = vec![Subject::plain("direct", Role::Direct, "", "", "")];
    for (prefix, program) in [("fanin", Some(fanin)), ("rival", rival)] {
        let Some(program) = program else { continue };
        for engine in ["epoll", "io_uring"] {
            for splice in ["auto", "always", "never"] {
                subjects.push(Subject {
                    name: format!("{prefix}-{engine}-{splice}"),
                    role: Role::Fanin,
                    program: program.to_owned(),
                    template: FANIN,
                    file: "fanin.toml",
                    mode: Some((engine, splice)),
                });
            }
        }
    }
    subjects.extend([
        Subject::plain("haproxy", Role::Peer, "haproxy", HAPROXY, "haproxy.cfg"),
        Subject::plain("haproxy-splice", Role::Peer, "haproxy", HAPROXY_SPLICE, "haproxy.cfg"),
        Subject::plain("nginx", Role::Peer, "nginx", NGINX, "nginx.conf"),
    ]);
    subjects
}

/// Those that were asked for: by name, or else by the beginning of their names.
///
/// # Errors
/// When a word names none.
pub(crate) fn chosen(all: Vec<Subject>, only: &[String]) -> Result<Vec<Subject>, Error> {
    let names: Vec<_> = all.iter().map(|subject| subject.name.clone()).collect();
    let takes = |word: &str, name: &str| {
        if names.iter().any(|other| other == word) { name == word } else { name.starts_with(word) }
    };
    if let Some(word) = only.iter().find(|word| !names.iter().any(|name| takes(word, name))) {
        let names = names.join(", ");
        return Err(Error(format!("--only {word}: no subject begins so; there are {names}")));
    }
    let wanted =
        |subject: &Subject| only.is_empty() || only.iter().any(|word| takes(word, &subject.name));
    Ok(all.into_iter().filter(wanted).collect())
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
        Self { name: name.to_owned(), role, program, template, file, mode: None }
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
        if self.name == "nginx" { "nginx libnginx-mod-stream" } else { "haproxy" }
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
            _ => &["-db", "-f"],
        };
        let arguments = words.iter().map(OsString::from).chain([file.into_os_string()]).collect();
        Ok((&self.program, arguments))
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
        let binds: Vec<_> = place.listens.iter().map(|address| format!("\"{address}\"")).collect();
        let (engine, splice) = self.mode.unwrap_or_default();
        let settings =
            place.fanin_settings.iter().map(|(key, value)| format!("{key} = \"{value}\"\n"));
        let fields = [
            ("@directory@", place.directory.display().to_string()),
            ("@buffer_bytes@", place.buffer_bytes.to_string()),
            ("@engine@", engine.to_owned()),
            ("@splice@", splice.to_owned()),
            ("@fanin_settings@", settings.collect::<String>()),
            ("@fanin_binds@", binds.join(", ")),
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
            ("@nginx_servers@", each(place.servers, &|_, to| format!("        server {to};"))),
        ];
        fields
            .iter()
            .fold(self.template.to_owned(), |text, (field, value)| text.replace(field, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_filled_in_whole() {
        let addresses: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(); 2];
        let directory = Path::new("/nowhere");
        let place = Place {
            listens: &addresses,
            servers: &addresses,
            directory,
            buffer_bytes: 16_384,
            fanin_settings: &BTreeMap::from([("latency_budget".into(), "1ms".into())]),
        };
        for subject in all(Path::new("fanin"), None) {
            let text = subject.configuration(&place);
            assert!(!text.contains('@'), "{}: {text}", subject.name);
            assert_eq!(text.is_empty(), subject.role == Role::Direct);
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
        let refused = chosen(all(Path::new("fanin"), None), &["squid".to_owned()]);
        assert!(refused.unwrap_err().to_string().contains("haproxy-splice"));
    }
}
