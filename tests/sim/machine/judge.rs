//! What the guest was told, against what it must be told.

use super::{Machine, demand};
use crate::guest::Ended;
use crate::oracle::End;
use crate::process::SERIAL;
use crate::request::{Action, IO_ERROR, OK};
use tidemark_backend::io::sim::Faults;

impl Machine {
    /// Judges the end of a request.
    pub(super) fn judge(&mut self, ended: Ended) -> Result<(), String> {
        let Ended { parcel, start, status, used_len, data } = ended;
        if let Action::Malformed(expected) = parcel.action {
            return demand(status == expected && used_len == 1, || format!("should be status {expected}"));
        }
        let well = status == OK;
        self.report.failed += u64::from(!well);
        demand(well || status == IO_ERROR && self.may_fail(&parcel.action), || "nothing explains the error".into())?;
        let written = if well { parcel.in_len + 1 } else { 1 };
        demand(used_len as usize == written, || format!("used length {used_len}"))?;
        match parcel.action {
            Action::Read(range) => {
                let checked = if well { self.oracle.check_read(start, range.start, &data) } else { Ok(()) };
                self.oracle.end_read(start);
                return checked;
            }
            Action::Write(range, _) | Action::Zero(range) => {
                let stable = self.scenario.is_stable();
                let end = if well { End::Done { stable } } else { End::Perhaps };
                self.oracle.end_change(range, start, end);
            }
            Action::Discard(range) => self.oracle.end_change(range, start, End::Perhaps),
            Action::Flush if well => self.oracle.end_flush(start),
            Action::GetId => {
                let found = data.strip_prefix(SERIAL.as_bytes());
                let padded = found.is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
                return demand(padded, || format!("serial {data:?}"));
            }
            Action::Flush | Action::Malformed(_) => {}
        }
        Ok(())
    }

    /// Whether a fault that is switched on explains an error of this action.
    fn may_fail(&self, action: &Action) -> bool {
        let faults: &Faults = &self.scenario.faults;
        let write = faults.write_error + faults.no_space + faults.flush_error;
        let extra = if self.scenario.is_direct() { faults.read_error } else { 0 };
        match action {
            Action::Read(_) => faults.read_error > 0,
            Action::Write(..) | Action::Zero(_) => write + extra > 0,
            Action::Discard(_) => self.scenario.unmap && write > 0,
            Action::Flush => faults.flush_error > 0,
            Action::GetId | Action::Malformed(_) => false,
        }
    }

    /// Reads the whole disk once nothing is under way.
    pub(super) fn check_disk(&mut self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let content = self.disk(process.file);
        let start = self.oracle.begin_read();
        let checked = self.oracle.check_read(start, 0, &content);
        self.oracle.end_read(start);
        checked.map_err(|why| format!("at the end: {why}"))
    }
}
