//! The numbers of JSON text: a scanner, and exact conversions to integers and floats.
//!
//! A number is scanned once into digits and a power of ten, eight digits at a step. What that does not settle (a
//! decimal too close to the middle of two floats, more than 19 digits) is read again by fast_float2, which is exact.

use std::cmp::Ordering;

use half::{bf16, f16};

use super::digits::{self, PLACE, eight_digits, window};

/// A number as scanned: its value is `mantissa * 10^exponent` when `exact`.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    pub negative: bool,
    pub mantissa: u64,
    pub exponent: i64,
    /// All digits are in the mantissa.
    pub exact: bool,
    /// Neither fraction nor exponent.
    pub integer: bool,
    /// Offset of the byte after it.
    pub end: usize,
}

/// Digits that always fit 64 bits.
const MAX_DIGITS: usize = 19;

/// Scans the number at `start`, strictly by JSON's grammar; `None` where there is none. What follows it is not looked
/// at.
#[inline(always)]
pub fn scan(bytes: &[u8], start: usize) -> Option<Number> {
    match usual(bytes, start) {
        Some(number) => Some(number),
        None => any(bytes, start),
    }
}

/// Scans what most floats are: a sign perhaps, one digit, a point and at most 20 digits, in the midst of a body.
///
/// Why: numbers differ in length, and a branch on that is mispredicted about as often as not, which would cost as much as
/// all the rest. So there is none, and where the next number begins hangs on few instructions.
#[inline(always)]
fn usual(bytes: &[u8], start: usize) -> Option<Number> {
    let window = window(bytes, start)?;
    let negative = usize::from(window[PLACE] == b'-');
    // Only the sign and the point are no digits; the next that is none ends it.
    let others = digits::others(window) ^ (negative | 2 << negative) as u32;
    let len = others.trailing_zeros() as usize;
    let fraction = len.wrapping_sub(negative + 2);
    if fraction.wrapping_sub(1) >= 20
        || window[PLACE + negative + 1] != b'.'
        || window[PLACE + len] | 0x20 == b'e'
    {
        return None;
    }
    let late = fraction.min(16);
    let early = fraction - late;
    let first = u64::from(window[PLACE + negative] - b'0');
    let mantissa = (first * POWERS_U64[early] + digits::first(window, PLACE + negative + 2, early))
        .wrapping_mul(POWERS_U64[late])
        .wrapping_add(digits::last(window, PLACE + len, late));
    Some(Number {
        negative: negative == 1,
        mantissa,
        exponent: -(fraction as i64),
        exact: fraction + usize::from(first != 0) <= MAX_DIGITS,
        integer: false,
        end: start + len,
    })
}

#[inline(never)]
fn any(bytes: &[u8], start: usize) -> Option<Number> {
    let negative = bytes.get(start) == Some(&b'-');
    let first_at = start + usize::from(negative);
    let first = digit(bytes, first_at)?;
    let mut mantissa = first;
    let mut at = first_at + 1;
    // A leading zero stands alone and is no significant digit.
    let mut count = usize::from(first != 0);
    if digit(bytes, at).is_some() {
        if first == 0 {
            return None;
        }
        at = run(bytes, at, &mut mantissa);
        count = at - first_at;
    }
    let mut exponent = 0;
    let mut integer = true;
    if bytes.get(at) == Some(&b'.') {
        let begin = at + 1;
        at = run(bytes, begin, &mut mantissa);
        if at == begin {
            return None;
        }
        count += at - begin;
        exponent = -((at - begin) as i64);
        integer = false;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let (power, end) = power(bytes, at + 1)?;
        exponent += power;
        at = end;
        integer = false;
    }
    Some(Number { negative, mantissa, exponent, exact: count <= MAX_DIGITS, integer, end: at })
}

/// The exponent at `at`, after the `e`, held within a range that no sum of it and a length of text can leave.
fn power(bytes: &[u8], mut at: usize) -> Option<(i64, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    let begin = at;
    let mut power: i64 = 0;
    while let Some(d) = digit(bytes, at) {
        power = (power * 10 + d as i64).min(1 << 40);
        at += 1;
    }
    (at > begin).then_some((if negative { -power } else { power }, at))
}

#[inline(always)]
fn digit(bytes: &[u8], at: usize) -> Option<u64> {
    match bytes.get(at)?.wrapping_sub(b'0') {
        d @ 0..=9 => Some(u64::from(d)),
        _ => None,
    }
}

const POWERS_U64: [u64; 17] = {
    let mut powers = [1; 17];
    let mut n = 1;
    while n < 17 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// Appends a run of digits to the mantissa (wrapping: the caller counts them) and returns where it ends.
#[inline(always)]
fn run(bytes: &[u8], mut at: usize, mantissa: &mut u64) -> usize {
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // Digits become 0 to 9. Adding 0x76 then sets the high bit of whatever is larger; a carry reaches only bytes
        // after the first such, and that one is what we look for.
        let values = u64::from_le_bytes(*eight) ^ 0x3030_3030_3030_3030;
        let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
        if others == 0 {
            *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight_digits(values));
            at += 8;
            continue;
        }
        let count = others.trailing_zeros() as usize / 8;
        if count > 0 {
            // Shifted to the end, with zeros before it.
            let run = eight_digits(values << (64 - 8 * count));
            *mantissa = mantissa.wrapping_mul(POWERS_U64[count & 7]).wrapping_add(run);
        }
        return at + count;
    }
    while let Some(d) = digit(bytes, at) {
        *mantissa = mantissa.wrapping_mul(10).wrapping_add(d);
        at += 1;
    }
    at
}

/// An integer: its sign, its magnitude and where it ends. `None` for what is no integer literal or exceeds 64 bits.
#[inline(always)]
pub fn integer(bytes: &[u8], start: usize) -> Option<(bool, u64, usize)> {
    match usual_integer(bytes, start) {
        Some(number) => Some(number),
        None => any_integer(bytes, start),
    }
}

/// Up to 16 digits in the midst of a body, read as `usual` reads floats.
#[inline(always)]
fn usual_integer(bytes: &[u8], start: usize) -> Option<(bool, u64, usize)> {
    let window = window(bytes, start)?;
    let negative = usize::from(window[PLACE] == b'-');
    let len = (digits::others(window) ^ negative as u32).trailing_zeros() as usize;
    let count = len.wrapping_sub(negative);
    let after = window[PLACE + len.min(31)];
    if count.wrapping_sub(1) >= 16
        || (window[PLACE + negative] == b'0' && count > 1)
        || after == b'.'
        || after | 0x20 == b'e'
    {
        return None;
    }
    Some((negative == 1, digits::last(window, PLACE + len, count), start + len))
}

#[inline(never)]
fn any_integer(bytes: &[u8], start: usize) -> Option<(bool, u64, usize)> {
    let number = any(bytes, start)?;
    if !number.integer {
        return None;
    }
    if number.exact {
        return Some((number.negative, number.mantissa, number.end));
    }
    let digits = bytes.get(start + usize::from(number.negative)..number.end)?;
    let value = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((number.negative, value, number.end))
}

/// A signed integer from sign and magnitude.
#[inline(always)]
pub fn signed(negative: bool, magnitude: u64) -> Option<i64> {
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// An unsigned integer from sign and magnitude; `-0` is zero.
#[inline(always)]
pub fn unsigned(negative: bool, magnitude: u64) -> Option<u64> {
    (!negative || magnitude == 0).then_some(magnitude)
}

/// 10^-63 to 10^38, each correctly rounded; 10^0 to 10^22 are exact.
const POWERS: [f64; 102] = [
    1e-63, 1e-62, 1e-61, 1e-60, 1e-59, 1e-58, 1e-57, 1e-56, 1e-55, 1e-54, 1e-53, 1e-52, 1e-51,
    1e-50, 1e-49, 1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38,
    1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25,
    1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12,
    1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4,
    1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36,
    1e37, 1e38,
];

const POWERS_ZERO: i64 = 63;

#[inline(always)]
fn power_of_ten(exponent: i64) -> Option<f64> {
    POWERS.get(usize::try_from(exponent + POWERS_ZERO).ok()?).copied()
}

/// The nearest f32 of the number scanned at `start`; `None` where that would be infinite.
///
/// The product of mantissa and power, in f64, is off by at most three units in the last place (one for each of
/// mantissa, power and product). Rounding it to f32 gives the right answer unless a midpoint of two floats lies that
/// near, which the bits that are cut off show; for subnormal results they would be others, so those go the exact way
/// as well.
#[inline(always)]
pub fn to_f32(number: &Number, bytes: &[u8], start: usize) -> Option<f32> {
    const CUT: u64 = (1 << 29) - 1;
    const MIDPOINT: u64 = 1 << 28;
    const MARGIN: u64 = 8;
    // The exponents of f32's normal numbers, as f64 writes them.
    const LEAST_NORMAL: u64 = 1023 - 126;
    const LARGEST: u64 = 1023 + 127;
    if number.exact
        && number.mantissa >> 63 == 0
        && let Some(power) = power_of_ten(number.exponent)
    {
        let product = (number.mantissa as i64) as f64 * power;
        let bits = product.to_bits();
        let beside = (bits & CUT).wrapping_sub(MIDPOINT - MARGIN) > 2 * MARGIN;
        // Below the largest exponent, so that rounding up cannot end at infinity.
        let normal = (bits >> 52).wrapping_sub(LEAST_NORMAL) < LARGEST - LEAST_NORMAL;
        if (beside && normal) || number.mantissa == 0 {
            let sign = u32::from(number.negative) << 31;
            return Some(f32::from_bits((product as f32).to_bits() | sign));
        }
    }
    slow_f32(bytes, start, number.end)
}

#[cold]
#[inline(never)]
fn slow_f32(bytes: &[u8], start: usize, end: usize) -> Option<f32> {
    let value: f32 = fast_float2::parse(bytes.get(start..end)?).ok()?;
    value.is_finite().then_some(value)
}

/// The nearest f64 of the number scanned at `start`; `None` where that would be infinite.
#[inline(always)]
pub fn to_f64(number: &Number, bytes: &[u8], start: usize) -> Option<f64> {
    // Both factors exact, so that one rounding, that of the operation, is all there is.
    if number.exact
        && number.mantissa <= 1 << 53
        && number.exponent.unsigned_abs() <= 22
        && let Some(power) = power_of_ten(number.exponent.abs())
    {
        let mantissa = (number.mantissa as i64) as f64;
        let value = if number.exponent < 0 { mantissa / power } else { mantissa * power };
        return Some(if number.negative { -value } else { value });
    }
    let value: f64 = fast_float2::parse(bytes.get(start..number.end)?).ok()?;
    value.is_finite().then_some(value)
}

/// The f32 toward zero from `value`, with its last bit set when anything was cut off. Rounding that to a shorter float
/// is the same as rounding `value`, since the last bit tells "exactly in the middle" from "a little beside it".
fn round_to_odd(value: f64) -> f32 {
    let near = value as f32;
    let wide = f64::from(near);
    if wide == value || value.is_nan() {
        return near;
    }
    let toward_zero = near.to_bits() - u32::from(wide.abs() > value.abs());
    f32::from_bits(toward_zero | 1)
}

/// The nearest FP16; infinite from 65520 on.
pub fn f16_of(value: f64) -> f16 {
    f16::from_f32(round_to_odd(value))
}

/// The nearest BF16; infinite where it overflows.
pub fn bf16_of(value: f64) -> bf16 {
    bf16::from_f32(round_to_odd(value))
}

/// The nearest FP16 of the number scanned at `start`; `None` where that would be infinite.
#[inline(always)]
pub fn to_f16(number: &Number, bytes: &[u8], start: usize) -> Option<f16> {
    let value = to_f64(number, bytes, start)?;
    let magnitude = f16_of(value.abs()).to_bits();
    // What lies beyond the largest counts as the next power of two until it is rounded.
    let wide = |bits| if bits < 0x7c00 { f16::from_bits(bits).to_f64() } else { 65_536.0 };
    let text = bytes.get(start..number.end)?;
    let magnitude = settle(magnitude, value.abs(), wide, text);
    (magnitude < 0x7c00).then_some(f16::from_bits(magnitude | u16::from(number.negative) << 15))
}

/// The nearest BF16 of the number scanned at `start`; `None` where that would be infinite.
#[inline(always)]
pub fn to_bf16(number: &Number, bytes: &[u8], start: usize) -> Option<bf16> {
    let value = to_f64(number, bytes, start)?;
    let magnitude = bf16_of(value.abs()).to_bits();
    let beyond = f64::from_bits((1023 + 128) << 52);
    let wide = |bits| if bits < 0x7f80 { bf16::from_bits(bits).to_f64() } else { beyond };
    let text = bytes.get(start..number.end)?;
    let magnitude = settle(magnitude, value.abs(), wide, text);
    (magnitude < 0x7f80).then_some(bf16::from_bits(magnitude | u16::from(number.negative) << 15))
}

/// The right one of two short floats where `value`, the nearest f64, is their middle: the number itself may lie on either
/// side of it. `bits` is the one that `value` is rounded to.
#[inline(always)]
fn settle(bits: u16, value: f64, wide: impl Fn(u16) -> f64, text: &[u8]) -> u16 {
    let near = wide(bits);
    if near == value {
        return bits;
    }
    let other = if value > near { bits + 1 } else { bits - 1 };
    if (near + wide(other)) / 2.0 != value {
        return bits;
    }
    match side(text, value) {
        Ordering::Less => bits.min(other),
        Ordering::Equal => bits,
        Ordering::Greater => bits.max(other),
    }
}

/// How the magnitude of a decimal compares with a float, exactly: by the digits of both.
#[cold]
#[inline(never)]
fn side(text: &[u8], value: f64) -> Ordering {
    // More digits than the middle of two short floats ever has.
    let float = format!("{value:.200e}");
    let (float, text) = (decimal(float.as_bytes()), decimal(text));
    text.1.cmp(&float.1).then_with(|| text.0.cmp(&float.0))
}

/// A decimal's digits from the first that is not 0 to the last, and the power of ten of the first.
fn decimal(text: &[u8]) -> (Vec<u8>, i64) {
    let end = text.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(text.len());
    let (number, power) = text.split_at(end);
    let power = self::power(power, 1).map_or(0, |(power, _)| power);
    let point = number.iter().position(|b| *b == b'.').unwrap_or(number.len());
    let whole = number.iter().take(point).filter(|b| b.is_ascii_digit()).count();
    let mut digits: Vec<u8> = number.iter().copied().filter(u8::is_ascii_digit).collect();
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    digits.drain(..zeros);
    while digits.last() == Some(&b'0') {
        digits.pop();
    }
    (digits, power + whole as i64 - zeros as i64)
}
