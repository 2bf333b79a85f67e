//! The ids of a W3C trace context: which trace a request belongs to, and which span of it.

/// Sixteen bytes of the trace, eight of the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    pub trace: [u8; 16],
    pub span: [u8; 8],
}

/// Letters of a `traceparent` of version 00.
const LENGTH: usize = 55;

impl TraceIds {
    /// Of a `traceparent` header; `None` where it is malformed, which counts as absent.
    pub fn parse(header: &str) -> Option<TraceIds> {
        let known = header.get(..LENGTH)?;
        let mut parts = known.split('-');
        let mut next = |length: usize| {
            let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            parts.next().filter(|part| part.len() == length && part.bytes().all(plain))
        };
        let (version, trace, span, _flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // A later version may say more, behind another dash.
        let rest = header.get(LENGTH..)?;
        let ends = rest.is_empty() || version != "00" && rest.starts_with('-');
        let mut ids = TraceIds { trace: [0; 16], span: [0; 8] };
        hex::decode_to_slice(trace, &mut ids.trace).ok()?;
        hex::decode_to_slice(span, &mut ids.span).ok()?;
        let named = ids.trace != [0; 16] && ids.span != [0; 8];
        (ends && named && version != "ff").then_some(ids)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn what_the_recommendation_calls_malformed_is_absent() {
        let of = |text: &str| TraceIds::parse(text).map(|ids| hex::encode(ids.span));
        let span = "00f067aa0ba902b7";
        let known = format!("00-{TRACE}-{span}-01");
        assert_eq!(of(&known).as_deref(), Some(span));
        assert_eq!(of(&format!("cc-{TRACE}-{span}-01-more")).as_deref(), Some(span));
        for wrong in [
            String::new(),
            known.to_uppercase(),
            format!("{known}-more"),
            format!("cc-{TRACE}-{span}-01more"),
            format!("ff-{TRACE}-{span}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{TRACE}-{span}-1"),
            format!("00-{TRACE}-{span}_01"),
            format!("00-{}ä-{span}-01", &TRACE[2..]),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn ids_come_back(trace: [u8; 16], span: [u8; 8], flags: u8) {
            let text = format!("00-{}-{}-{flags:02x}", hex::encode(trace), hex::encode(span));
            let named = trace != [0; 16] && span != [0; 8];
            prop_assert_eq!(TraceIds::parse(&text), named.then_some(TraceIds { trace, span }));
        }

        #[test]
        fn no_header_makes_it_panic(text in "\\PC{0,80}") {
            let _ = TraceIds::parse(&text);
        }
    }
}
