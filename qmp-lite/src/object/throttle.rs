//! Objects of type `throttle-group`: limits that nodes share, also while they are in use.
//!
//! Knows QEMU's members, in both their forms; what limits can stand together is the backend's matter.

use std::sync::Arc;

use serde_json::{Map, Value};
use tidemark_backend::node::throttle::{Limit, LimitsError, Rates, ThrottleGroup, ThrottleLimits as Limits};

use super::{Object, Objects};
use crate::error::QmpError;
use crate::schema::{Fields, Input, Mode, Qapi, Schema, qapi_struct};

qapi_struct! {
    /// A throttle group.
    pub struct ThrottleGroupProperties "ThrottleGroupProperties" {
        /// Its limits; none if absent.
        "limits" limits: Option<ThrottleLimits>,
        /// As `iops-total` of `limits`, which counts where both say something. So do all the others.
        "x-iops-total" x_iops_total: Option<i64>,
        /// As in `limits`.
        "x-iops-total-max" x_iops_total_max: Option<i64>,
        /// As in `limits`.
        "x-iops-total-max-length" x_iops_total_max_length: Option<i64>,
        /// As in `limits`.
        "x-iops-read" x_iops_read: Option<i64>,
        /// As in `limits`.
        "x-iops-read-max" x_iops_read_max: Option<i64>,
        /// As in `limits`.
        "x-iops-read-max-length" x_iops_read_max_length: Option<i64>,
        /// As in `limits`.
        "x-iops-write" x_iops_write: Option<i64>,
        /// As in `limits`.
        "x-iops-write-max" x_iops_write_max: Option<i64>,
        /// As in `limits`.
        "x-iops-write-max-length" x_iops_write_max_length: Option<i64>,
        /// As in `limits`.
        "x-bps-total" x_bps_total: Option<i64>,
        /// As in `limits`.
        "x-bps-total-max" x_bps_total_max: Option<i64>,
        /// As in `limits`.
        "x-bps-total-max-length" x_bps_total_max_length: Option<i64>,
        /// As in `limits`.
        "x-bps-read" x_bps_read: Option<i64>,
        /// As in `limits`.
        "x-bps-read-max" x_bps_read_max: Option<i64>,
        /// As in `limits`.
        "x-bps-read-max-length" x_bps_read_max_length: Option<i64>,
        /// As in `limits`.
        "x-bps-write" x_bps_write: Option<i64>,
        /// As in `limits`.
        "x-bps-write-max" x_bps_write_max: Option<i64>,
        /// As in `limits`.
        "x-bps-write-max-length" x_bps_write_max_length: Option<i64>,
        /// As in `limits`.
        "x-iops-size" x_iops_size: Option<i64>,
    }
}

qapi_struct! {
    /// Limits. What is absent stays as it is; a new group has no limits.
    pub struct ThrottleLimits "ThrottleLimits" {
        /// Requests per second; 0 is without limit.
        "iops-total" iops_total: Option<i64>,
        /// Requests per second in bursts, at least as many; 0 has none longer than a tenth of a second.
        "iops-total-max" iops_total_max: Option<i64>,
        /// How many seconds a burst may last.
        "iops-total-max-length" iops_total_max_length: Option<i64>,
        /// Reads per second.
        "iops-read" iops_read: Option<i64>,
        /// Reads per second in bursts.
        "iops-read-max" iops_read_max: Option<i64>,
        /// How many seconds a burst may last.
        "iops-read-max-length" iops_read_max_length: Option<i64>,
        /// Writes per second.
        "iops-write" iops_write: Option<i64>,
        /// Writes per second in bursts.
        "iops-write-max" iops_write_max: Option<i64>,
        /// How many seconds a burst may last.
        "iops-write-max-length" iops_write_max_length: Option<i64>,
        /// Bytes per second.
        "bps-total" bps_total: Option<i64>,
        /// Bytes per second in bursts.
        "bps-total-max" bps_total_max: Option<i64>,
        /// How many seconds a burst may last.
        "bps-total-max-length" bps_total_max_length: Option<i64>,
        /// Bytes read per second.
        "bps-read" bps_read: Option<i64>,
        /// Bytes read per second in bursts.
        "bps-read-max" bps_read_max: Option<i64>,
        /// How many seconds a burst may last.
        "bps-read-max-length" bps_read_max_length: Option<i64>,
        /// Bytes written per second.
        "bps-write" bps_write: Option<i64>,
        /// Bytes written per second in bursts.
        "bps-write-max" bps_write_max: Option<i64>,
        /// How many seconds a burst may last.
        "bps-write-max-length" bps_write_max_length: Option<i64>,
        /// Bytes that count as one request: larger requests count as several. 0 has each count once.
        "iops-size" iops_size: Option<i64>,
    }
}

/// The property that is all limits together.
const LIMITS: &str = "limits";
/// Lengths have 32 bits.
const LENGTH_MAX: i64 = 0xffff_ffff;

/// What a limit's name stands for.
fn place<'a>(limits: &'a mut Limits, name: &str) -> Option<&'a mut u64> {
    if name == "iops-size" {
        return Some(&mut limits.iops_size);
    }
    let mut words = name.splitn(3, '-');
    let rates = match words.next()? {
        "bps" => &mut limits.bps,
        "iops" => &mut limits.iops,
        _ => return None,
    };
    let Rates { total, read, write } = rates;
    let Limit { avg, max, max_length } = match words.next()? {
        "total" => total,
        "read" => read,
        "write" => write,
        _ => return None,
    };
    match words.next() {
        None => Some(avg),
        Some("max") => Some(max),
        Some("max-length") => Some(max_length),
        Some(_) => None,
    }
}

/// The limits of a group in QEMU's form.
fn encoded(mut limits: Limits) -> Map<String, Value> {
    let members = ThrottleLimits::members_of(&mut Schema::default()).members;
    let value = |name: &str| place(&mut limits, name).map(|value| (name.to_owned(), Value::from(value.cast_signed())));
    members.iter().map(|member| member.name).filter_map(value).collect()
}

/// Changes limits as far as something is said of them.
fn apply(limits: &mut Limits, said: &ThrottleLimits) -> Result<(), QmpError> {
    let mut members = Map::new();
    said.put(&mut members);
    for (name, value) in &members {
        let value = value.as_i64().unwrap_or(0);
        if name.ends_with("-length") && value > LENGTH_MAX {
            let text = format!("{name} value must be in the range [0, {LENGTH_MAX}]");
            return Err(QmpError::generic(text));
        }
        if let Some(place) = place(limits, name) {
            // As in QEMU a negative one is a large one, which is refused as such.
            *place = value.cast_unsigned();
        }
    }
    Ok(())
}

impl ThrottleGroupProperties {
    /// The limits of a new group.
    fn limits(&self) -> Result<Limits, QmpError> {
        let mut limits = Limits::default();
        let mut members = Map::new();
        self.put(&mut members);
        for (name, value) in &members {
            let Some(place) = name.strip_prefix("x-").and_then(|name| place(&mut limits, name)) else { continue };
            let value = value.as_i64().unwrap_or(0);
            *place = u64::try_from(value).map_err(|_| QmpError::generic("Property values cannot be negative"))?;
            if name.ends_with("-length") && value > LENGTH_MAX {
                let text = format!("{name} value must be in therange [0, {LENGTH_MAX}]");
                return Err(QmpError::generic(text));
            }
        }
        if let Some(said) = &self.limits {
            apply(&mut limits, said)?;
        }
        Ok(limits)
    }

    /// The group.
    pub(super) fn create(&self, id: &str) -> Result<Object, QmpError> {
        Ok(Object::Throttle(ThrottleGroup::new(id.to_owned(), self.limits()?)?))
    }
}

impl From<LimitsError> for QmpError {
    fn from(error: LimitsError) -> Self {
        Self::generic(error.to_string())
    }
}

impl Objects {
    /// The throttle group of this name, if there is one.
    pub fn throttle_group(&self, id: &str) -> Option<Arc<ThrottleGroup>> {
        match self.find(id) {
            Some(Object::Throttle(group)) => Some(group),
            _ => None,
        }
    }
}

qapi_struct! {
    /// The property that may be set.
    pub struct ThrottleGroupChange "x-throttle-group-change" {
        /// Limits.
        "limits" limits: ThrottleLimits,
    }
}

/// A property of a group.
pub(super) fn get(group: &ThrottleGroup, property: &str) -> Option<Value> {
    let mut limits = group.limits();
    match property.strip_prefix("x-") {
        Some(name) => place(&mut limits, name).map(|value| Value::from(value.cast_signed())),
        None if property == LIMITS => Some(Value::Object(encoded(limits))),
        None => None,
    }
}

/// Changes a property of a group, if it has such a one. Those who wait wait for the new limits from then on.
pub(super) fn set(group: &ThrottleGroup, property: &str, value: &Value) -> Option<Result<(), QmpError>> {
    if property != LIMITS {
        let fixed = || Err(QmpError::generic("Property cannot be set after initialization"));
        return get(group, property).map(|_| fixed());
    }
    Some(change(group, value))
}

fn change(group: &ThrottleGroup, value: &Value) -> Result<(), QmpError> {
    let named = Value::Object(Map::from_iter([(LIMITS.to_owned(), value.clone())]));
    let change = ThrottleGroupChange::decode(Input::new(&named, Mode::Json))?;
    let mut limits = group.limits();
    apply(&mut limits, &change.limits)?;
    Ok(group.change(limits)?)
}
