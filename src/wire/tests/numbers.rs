//! Tests of the numbers: the same bits as the standard library's parser, for every float.

use half::{bf16, f16};
use proptest::prelude::*;

use crate::wire::{
    digits,
    numbers::{bf16_of, f16_of, integer, scan, to_bf16, to_f16, to_f32, to_f64},
};

/// The text as our numbers read it: alone, at the end of other text, and in its midst, where the fast way is open.
/// `None` for what would be infinite.
#[track_caller]
fn all(text: &str) -> (Option<f32>, Option<f64>) {
    let alone = scan(text.as_bytes(), 0).unwrap();
    assert_eq!(alone.end, text.len(), "{text}");
    let value = to_f64(&alone, text.as_bytes(), 0);
    let short = to_f32(&alone, text.as_bytes(), 0);
    for after in ["", ",0.12345678]", "]}                                                    "] {
        let padded = format!("0.1234567890123456[{text}{after}");
        let read = scan(padded.as_bytes(), 19).unwrap();
        assert_eq!(read.end, 19 + text.len(), "{text}");
        assert_eq!((read.negative, read.integer), (alone.negative, alone.integer), "{text}");
        let again = to_f64(&read, padded.as_bytes(), 19);
        assert_eq!(again.map(f64::to_bits), value.map(f64::to_bits), "{text}");
        let again = to_f32(&read, padded.as_bytes(), 19);
        assert_eq!(again.map(f32::to_bits), short.map(f32::to_bits), "{text}");
    }
    (short, value)
}

#[track_caller]
fn same(text: &str) {
    let (short, long) = all(text);
    let expected: f32 = text.parse().unwrap();
    let finite = expected.is_finite().then_some(expected.to_bits());
    assert_eq!(short.map(f32::to_bits), finite, "{text} as f32");
    let expected: f64 = text.parse().unwrap();
    let finite = expected.is_finite().then_some(expected.to_bits());
    assert_eq!(long.map(f64::to_bits), finite, "{text} as f64");
}

#[test]
fn the_usual_and_the_extreme() {
    for text in [
        "0",
        "-0",
        "0.0",
        "-0.0e5",
        "1",
        "-1",
        "10",
        "0.1",
        "0.3333333333333333",
        "3.141592653589793",
        "1e0",
        "1E+2",
        "1e-2",
        "16777217",
        "16777216.999999999",
        "16777217.0000000001",
        "33554435",
        "9007199254740993",
        "9007199254740992.9999",
        "123456789012345678",
        "1234567890123456789",
        "12345678901234567890",
        "18446744073709551616",
        "0.12345678955316544",
        "0.1234567890123456789012345",
        "0.000000000000000000000000123456789",
        "1.401298464324817e-45",
        "7.006492321624085e-46",
        "7.006492321624086e-46",
        "1.1754943508222875e-38",
        "1.1754942807573643e-38",
        "1.17549429e-38",
        "3.4028234663852886e+38",
        "3.4028235677973362e38",
        "3.4028235677973366e38",
        "3.4028235677973367e38",
        "3.5e38",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "4.9e-324",
        "2.4e-324",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "1e308",
        "1e309",
        "1e-999",
        "0e999",
        "1e22",
        "1e23",
        "8.5e22",
        "9223372036854775807",
        "9223372036854775808",
        "9223372036854775808e-20",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "0e-99999999999999999999",
        "1000000000000000000000000000000000000000000e-42",
    ] {
        same(text);
    }
    same(&format!("1{}", "0".repeat(400)));
    same(&format!("0.{}1", "0".repeat(400)));
    same(&format!("0.{}1e400", "0".repeat(399)));
    same(&"1234567890".repeat(200));
}

#[test]
fn refuses_what_json_does_not_call_a_number() {
    for text in [
        "", "-", "+1", ".5", "-.5", "1.", "1.e5", "1e", "1e+", "01", "-01", "00", "NaN", "inf",
        "e5", "0x10x", "--1", "--1.5", "-1.", "-.", ".", "1..5", "1.-5", "01.5", "1.5e", "1.5E+",
        "1.5e.",
    ] {
        let read = scan(text.as_bytes(), 0);
        assert!(read.is_none_or(|n| n.end < text.len()), "{text}");
        let midst = format!("0123456789123456[{text},{}", "7".repeat(40));
        let read = scan(midst.as_bytes(), 17);
        assert!(read.is_none_or(|n| n.end < 17 + text.len()), "{text}: {read:?}");
    }
}

#[test]
fn integers_are_exact_to_the_last_bit() {
    for value in
        [0, 1, 9, 10, 99_999_999, 100_000_000, 9_999_999_999_999_999_999, u64::MAX - 1, u64::MAX]
    {
        let text = value.to_string();
        assert_eq!(integer(text.as_bytes(), 0), Some((false, value, text.len())));
        let text = format!("-{value},12345678");
        assert_eq!(integer(text.as_bytes(), 0), Some((true, value, text.len() - 9)));
        // In the midst of a body, and followed by what only looks like more of it.
        for (sign, negative) in [("", false), ("-", true)] {
            let text = format!("\"data\":          [{sign}{value},{}", "7".repeat(40));
            let end = 18 + sign.len() + value.to_string().len();
            assert_eq!(integer(text.as_bytes(), 18), Some((negative, value, end)), "{text}");
        }
    }
    for text in [
        "18446744073709551616",
        "99999999999999999999",
        "100000000000000000000",
        "1.0",
        "1e5",
        "1E5",
        "12.5",
        "01",
        "-01",
        "00000000000000000",
        "",
        "-",
        "--1",
    ] {
        assert_eq!(integer(text.as_bytes(), 0), None, "{text}");
        let midst = format!("0123456789123456[{text},{}", "7".repeat(40));
        assert_eq!(integer(midst.as_bytes(), 17), None, "{text}");
    }
}

/// Every FP16, every middle between two of them, and the nearest f64 on either side of it.
#[test]
fn fp16_rounds_to_nearest_even() {
    for bits in 0..0x7bff_u16 {
        let (low, high) = (f16::from_bits(bits), f16::from_bits(bits + 1));
        let middle = (low.to_f64() + high.to_f64()) / 2.0;
        let even = if bits & 1 == 0 { low } else { high };
        assert_eq!(f16_of(low.to_f64()), low);
        assert_eq!(f16_of(middle).to_bits(), even.to_bits(), "{middle}");
        assert_eq!(f16_of(middle.next_down()), low, "below {middle}");
        assert_eq!(f16_of(middle.next_up()), high, "above {middle}");
        assert_eq!(f16_of(-middle.next_up()), -high, "above {middle}");
    }
    assert_eq!(f16_of(65520.0), f16::INFINITY);
    assert_eq!(f16_of(65519.99999999999), f16::MAX);
    assert_eq!(f16_of(1e300), f16::INFINITY);
    assert!(f16_of(f64::NAN).is_nan());
}

/// The decimal that is exactly the middle, and those beside it by so little that their f64 is the middle as well.
fn around(middle: f64) -> [String; 3] {
    let exact = format!("{middle:.160}").trim_end_matches('0').to_owned();
    let low = match exact.strip_suffix('.') {
        Some(_) => format!("{}.{}", middle - 1.0, "9".repeat(30)),
        None => format!("{}4{}", exact.strip_suffix('5').unwrap(), "9".repeat(30)),
    };
    let high = format!("{exact}{}1", "0".repeat(30));
    [low, exact.trim_end_matches('.').to_owned(), high]
}

#[test]
fn short_floats_are_rounded_once() {
    let f16_of = |text: &str| {
        let read = scan(text.as_bytes(), 0).unwrap();
        to_f16(&read, text.as_bytes(), 0).map(f16::to_bits)
    };
    let bf16_of = |text: &str| {
        let read = scan(text.as_bytes(), 0).unwrap();
        to_bf16(&read, text.as_bytes(), 0).map(bf16::to_bits)
    };
    for bits in (0..0x7bff_u16).step_by(7) {
        let middle = (f16::from_bits(bits).to_f64() + f16::from_bits(bits + 1).to_f64()) / 2.0;
        let [low, exact, high] = around(middle);
        assert_eq!(f16_of(&low), Some(bits), "{low}");
        assert_eq!(f16_of(&exact), Some(bits + (bits & 1)), "{exact}");
        assert_eq!(f16_of(&high), Some(bits + 1), "{high}");
        assert_eq!(f16_of(&format!("-{high}")), Some((bits + 1) | 0x8000), "-{high}");
    }
    for bits in (0x3000..0x4a00_u16).chain(0..16) {
        let middle = (bf16::from_bits(bits).to_f64() + bf16::from_bits(bits + 1).to_f64()) / 2.0;
        let [low, exact, high] = around(middle);
        assert_eq!(bf16_of(&low), Some(bits), "{low}");
        assert_eq!(bf16_of(&exact), Some(bits + (bits & 1)), "{exact}");
        assert_eq!(bf16_of(&high), Some(bits + 1), "{high}");
    }
    assert_eq!(f16_of("65519.99999999999999999999999"), Some(0x7bff));
    assert_eq!(f16_of("6.551999999999999999999999999e4"), Some(0x7bff));
    assert_eq!(f16_of("65520"), None);
    assert_eq!(f16_of("0.0000000000000000000000000000001"), Some(0));
}

#[test]
fn bf16_rounds_to_nearest_even() {
    for bits in 0..0x7f7f_u16 {
        let (low, high) = (bf16::from_bits(bits), bf16::from_bits(bits + 1));
        let middle = (low.to_f64() + high.to_f64()) / 2.0;
        let even = if bits & 1 == 0 { low } else { high };
        assert_eq!(bf16_of(middle).to_bits(), even.to_bits(), "{middle}");
        assert_eq!(bf16_of(middle.next_down()), low, "below {middle}");
        assert_eq!(bf16_of(middle.next_up()), high, "above {middle}");
    }
    assert_eq!(bf16_of(-1e39), bf16::NEG_INFINITY);
}

proptest! {
    /// With and without vector instructions.
    #[test]
    fn digits_are_the_same_on_every_processor(text in "[ -~]{16}[0-9]{0,32}[ -~]{48}", count in 0usize..17) {
        let window = digits::window(text.as_bytes(), 16).unwrap();
        let len = digits::others(window).trailing_zeros() as usize;
        let expected = text.as_bytes()[16..48].iter().take_while(|b| b.is_ascii_digit()).count();
        prop_assert_eq!(len, expected);
        prop_assert_eq!(digits::plain::others(window), digits::others(window));
        let count = count.min(len);
        let value = text[16 + len - count..16 + len].parse().unwrap_or(0);
        prop_assert_eq!(digits::last(window, 16 + len, count), value);
        prop_assert_eq!(digits::plain::last(window, 16 + len, count), value);
        let count = count.min(4);
        prop_assert_eq!(digits::first(window, 16, count), text[16..16 + count].parse().unwrap_or(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_on_shortest_texts(bits in any::<u64>()) {
        let long = f64::from_bits(bits);
        let short = f32::from_bits(bits as u32);
        for text in [format!("{long}"), format!("{long:e}"), format!("{short}"), format!("{short:e}"), format!("{}", f64::from(short))] {
            if text.parse::<f64>().unwrap().is_finite() && !text.contains("inf") {
                same(&text);
            }
        }
    }

    /// What Python writes of numbers between 0 and 1: up to 17 digits.
    #[test]
    fn agrees_on_usual_numbers(value in -1.0..1.0f64, digits in 0usize..20) {
        same(&format!("{value}"));
        same(&format!("{value:.digits$}"));
    }

    #[test]
    fn agrees_on_any_decimal(text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?") {
        same(&text);
    }

    /// Around the middle of two f32s, where a rounding too many shows.
    #[test]
    fn agrees_next_to_midpoints(bits in 0u32..0x7f7f_ffff, digits in 8usize..22, nudge in -3i64..4) {
        let low = f64::from(f32::from_bits(bits));
        let high = f64::from(f32::from_bits(bits + 1));
        let middle = (low + high) / 2.0;
        let near = f64::from_bits((middle.to_bits() as i64 + nudge) as u64);
        same(&format!("{middle:e}"));
        same(&format!("{near:e}"));
        same(&format!("{near:.digits$e}"));
        if (1e-5..1e18).contains(&near) {
            same(&format!("{near}"));
            same(&format!("{near:.digits$}"));
        }
    }
}
