//! `source`: where connections to the servers come from (configuration manual, sections 4.2 and 5.2).

use crate::config::value::{self, Refusal};
use crate::config::{Source, SourcePorts};

use super::lexer::Line;
use super::sections::Reader;

const HELP: &str = "write source ADDRESS, such as: source 192.0.2.10";

impl Reader {
    pub(super) fn source(&mut self, line: &Line) {
        let Some(word) = self.argument(line, HELP) else { return };
        match source(&word.text) {
            Ok(source) => self.settings().source = Some(Self::set(line, source)),
            Err(refusal) => return self.refuse_word(word, &refusal),
        }
        if line.words.len() > 2 {
            let help = "remove what follows the address: clients' own addresses cannot be taken, and \
                        the routes choose the interface";
            self.fault(line, 2, "more than an address after `source`", "has no counterpart", help);
        }
    }
}

/// `ADDRESS`, `ADDRESS:PORT-PORT`; `*` and `0.0.0.0` are none.
pub(super) fn source(text: &str) -> Result<Source, Refusal> {
    let plain = ["ipv4@", "ipv6@"].iter().find_map(|kind| text.strip_prefix(kind)).unwrap_or(text);
    let is_alone = |address: &str| address.parse::<std::net::IpAddr>().is_ok();
    let (address, ports) = match plain.rsplit_once(':') {
        Some((address, ports)) if !is_alone(plain) => (address, ports),
        _ => (plain, ""),
    };
    let ports = match ports {
        "" | "0" => SourcePorts::Auto,
        range if range.contains('-') => value::source_ports(range)?,
        _ => {
            return Err(Refusal::new(
                "from one port there is one connection at a time",
                "write the address alone, or a range of ports such as 192.0.2.10:10240-32767",
            ));
        }
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let addresses = match address {
        "*" | "0.0.0.0" | "::" | "" => Vec::new(),
        address => vec![value::source_address(address, &[])?],
    };
    Ok(Source { addresses, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_ports() {
        let read = |text| source(text).map(|source| (source.addresses, source.ports.to_string()));
        let one = |address: &str| vec![address.parse().unwrap()];
        for (text, addresses, ports) in [
            ("192.0.2.10", one("192.0.2.10"), "auto"),
            ("192.0.2.10:0", one("192.0.2.10"), "auto"),
            ("192.0.2.10:10000-20000", one("192.0.2.10"), "10000-20000"),
            ("2001:db8::1", one("2001:db8::1"), "auto"),
            ("[2001:db8::1]:10000-20000", one("2001:db8::1"), "10000-20000"),
            ("*", vec![], "auto"),
            ("0.0.0.0", vec![], "auto"),
        ] {
            assert_eq!(read(text), Ok((addresses, ports.to_owned())), "{text}");
        }
        for text in ["192.0.2.10:4000", "eth0", "192.0.2.10:20-10"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
