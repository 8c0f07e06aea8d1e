use super::*;
use crate::sys::process::Bell;
use std::sync::Arc;
#[derive(Debug)]
pub struct Uring;
impl Uring {
    pub fn new(_: EngineLimits, _: Arc<Bell>) -> io::Result<Self> {
        Ok(Self)
    }
}
impl Engine for Uring {
    fn listen(&mut self, _: ListenerId, _: OwnedFd) -> io::Result<()> {
        Ok(())
    }
    fn accepting(&mut self, _: ListenerId, _: bool) {}
    fn unlisten(&mut self, _: ListenerId) {}
    fn adopt(&mut self, _: AcceptedSocket, _: SessionKey) {}
    fn refuse(&mut self, _: AcceptedSocket) {}
    fn submit(&mut self, _: Op) {}
    fn wait(&mut self, _: Option<Time>, _: &mut Vec<Completion>) -> io::Result<Time> {
        Ok(Time::default())
    }
    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}
pub fn probe() -> io::Result<()> {
    Err(io::Error::other("not built in yet"))
}
