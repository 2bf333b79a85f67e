//! Admission: the deadline of a request, and its priority.

use std::time::Duration;

use crate::types::{
    error::Error,
    request::{InferRequest, Parameter},
    time::Tick,
};

/// The earliest of what the client gave (`transport`: the gRPC deadline or HTTP's header; the protocol's `timeout`
/// parameter, in microseconds, 0 meaning none), else the model's default; never later than `cap` from `received`.
pub fn deadline(
    received: Tick,
    transport: Option<Duration>,
    request: &InferRequest,
    default: Option<Duration>,
    cap: Option<Duration>,
) -> Result<Option<Tick>, Error> {
    let parameter = match parameter(request, "timeout") {
        None | Some(Parameter::Int64(0) | Parameter::Uint64(0)) => None,
        Some(Parameter::Uint64(us)) => Some(Duration::from_micros(*us)),
        Some(Parameter::Int64(us)) if *us > 0 => Some(Duration::from_micros(us.unsigned_abs())),
        Some(_) => {
            return Err(Error::invalid(
                "parameter 'timeout' is not a positive number of microseconds",
            ));
        }
    };
    let asked = match (transport, parameter) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let wait = match (asked.or(default), cap) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Ok(wait.map(|wait| received.after(wait)))
}

/// The request's priority among those that wait: higher runs earlier. From the protocol's `priority` parameter, where 1 is
/// the highest and 0 means none given, as in Triton; who gives none gets the caller's (`cap`; 0: it has none) or the
/// model's default. Nobody gets a higher one than the caller's.
pub fn priority(request: &InferRequest, default: u8, cap: u8) -> Result<u8, Error> {
    let asked = match parameter(request, "priority") {
        None => 0,
        Some(Parameter::Uint64(level)) => *level,
        Some(Parameter::Int64(level)) if *level >= 0 => level.unsigned_abs(),
        Some(_) => {
            return Err(Error::invalid("parameter 'priority' is not a whole number from 0 on"));
        }
    };
    let level = match (u8::try_from(asked).unwrap_or(u8::MAX), cap) {
        (0, 0) => default,
        (asked, cap) => asked.max(cap),
    };
    Ok(u8::MAX - level)
}

fn parameter<'a>(request: &'a InferRequest, name: &str) -> Option<&'a Parameter> {
    request.parameters.iter().find(|(key, _)| &**key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(timeout: Option<Parameter>) -> InferRequest {
        let parameters = timeout.map(|value| ("timeout".into(), value)).into_iter().collect();
        InferRequest { parameters, ..InferRequest::default() }
    }

    #[test]
    fn the_earliest_deadline_counts() {
        let ms = Duration::from_millis;
        let at = |transport, parameter, default, cap| {
            deadline(Tick(0), transport, &request(parameter), default, cap).map(|d| d.map(|t| t.0))
        };
        assert_eq!(at(None, None, None, None), Ok(None));
        assert_eq!(at(Some(ms(5)), Some(Parameter::Int64(2000)), None, None), Ok(Some(2_000_000)));
        assert_eq!(at(Some(ms(1)), Some(Parameter::Uint64(2000)), None, None), Ok(Some(1_000_000)));
        assert_eq!(at(None, Some(Parameter::Int64(0)), Some(ms(7)), None), Ok(Some(7_000_000)));
        assert_eq!(at(Some(ms(9)), None, Some(ms(7)), None), Ok(Some(9_000_000)));
        assert_eq!(at(Some(ms(9)), None, None, Some(ms(4))), Ok(Some(4_000_000)));
        assert_eq!(at(None, None, None, Some(ms(4))), Ok(Some(4_000_000)));
        assert!(at(None, Some(Parameter::Int64(-1)), None, None).is_err());
        assert!(at(None, Some(Parameter::String("5".into())), None, None).is_err());
    }

    #[test]
    fn a_caller_caps_its_priority() {
        let asked = |value: Option<Parameter>, cap| {
            let parameters = value.map(|value| ("priority".into(), value)).into_iter().collect();
            priority(&InferRequest { parameters, ..InferRequest::default() }, 2, cap)
        };
        let uint = |level| Some(Parameter::Uint64(level));
        assert_eq!(asked(None, 0), Ok(253), "the default");
        assert_eq!(asked(uint(0), 0), Ok(253), "0 is none");
        assert_eq!(asked(uint(1), 0), Ok(254), "1 is the highest");
        assert_eq!(asked(Some(Parameter::Int64(3)), 0), Ok(252));
        // What a caller gets without asking, and at most.
        assert_eq!(asked(None, 3), Ok(252));
        assert_eq!(asked(None, 1), Ok(254));
        assert_eq!(asked(uint(1), 3), Ok(252));
        assert_eq!(asked(uint(7), 3), Ok(248));
        assert_eq!(asked(uint(u64::MAX), 3), Ok(0));
        for wrong in [Parameter::Int64(-1), Parameter::String("1".into()), Parameter::Double(1.0)] {
            assert!(asked(Some(wrong), 0).is_err());
        }
    }
}
