//! How servers are checked.

use std::time::Duration;

use crate::config::file::{CheckTable, Value, Written};
use crate::config::value::{self, Refusal};
use crate::config::{Check, HttpCheck};

use super::{Reader, integer, text_of};

impl Reader {
    /// What a table says over these defaults.
    pub(super) fn check(&mut self, table: &CheckTable, defaults: Check) -> Check {
        let interval = self.interval("interval", table.interval.as_ref());
        let interval = interval.unwrap_or(defaults.interval);
        let fast = self.interval("fast_interval", table.fast_interval.as_ref());
        let down = self.interval("down_interval", table.down_interval.as_ref());
        let patience = table.timeout.as_ref();
        let port = |written: &Written| integer(written, 1, u16::MAX).map(Some);
        Check {
            interval,
            fast_interval: fast.or(defaults.fast_interval),
            down_interval: down.or(defaults.down_interval),
            timeout: self.take("timeout", patience, interval, text_of(value::timeout)),
            rise: self.take("rise", table.rise.as_ref(), defaults.rise, count),
            fall: self.take("fall", table.fall.as_ref(), defaults.fall, count),
            port: self.take("port", table.port.as_ref(), defaults.port, port),
            address: self.take("address", table.address.as_ref(), defaults.address, |written| {
                text_of(value::check_address)(written).map(Some)
            }),
            http: self.http(table, defaults.http),
        }
    }

    fn interval(&mut self, key: &str, value: Option<&Value>) -> Option<Duration> {
        self.take(key, value, None, |written| {
            if matches!(written, Written::Text(text) if text == "off") {
                return Ok(None);
            }
            text_of(value::check_interval)(written).map(Some)
        })
    }

    fn http(&mut self, table: &CheckTable, default: Option<HttpCheck>) -> Option<HttpCheck> {
        let path = table.http.as_ref();
        let http = self.take("http", path, default, |written| match written {
            Written::Text(text) if text == "off" => Ok(None),
            _ => text_of(value::http_path)(written).map(|path| Some(HttpCheck::new(path))),
        });
        let host = table.host.as_ref();
        let host = self.take("host", host, None, |w| text_of(value::http_host)(w).map(Some));
        let expect = table.expect.as_ref();
        let expect = self.take("expect", expect, None, |w| text_of(value::statuses)(w).map(Some));
        let Some(mut http) = http else {
            if let Some(value) = table.host.as_ref().or(table.expect.as_ref()) {
                let fault = crate::config::error::Fault::new("a check that asks for nothing");
                let fault = fault.at(value.span(), "belongs to an HTTP check");
                self.faults.push(fault.help("write http = \"/PATH\" beside it, or remove it"));
            }
            return None;
        };
        http.host = host.or(http.host);
        http.expect = expect.unwrap_or(http.expect);
        Some(http)
    }
}

fn count(written: &Written) -> Result<u16, Refusal> {
    integer(written, 1, value::CHECKS_MAX)
}
