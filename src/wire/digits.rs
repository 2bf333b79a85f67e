//! Many bytes of text at once: which are digits, and the number that a run of digits spells.

#[cfg(not(target_arch = "x86_64"))]
use plain as machine;
#[cfg(target_arch = "x86_64")]
use simd as machine;

/// A place in the midst of a text: the 16 bytes before it, and 32 from it on.
pub type Window = [u8; 48];

/// Where in a window its place is.
pub const PLACE: usize = 16;

#[inline(always)]
pub fn window(bytes: &[u8], at: usize) -> Option<&Window> {
    bytes.get(at.checked_sub(PLACE)?..)?.first_chunk()
}

/// `N` bytes of a window; where they are is known to fit by whoever calls.
#[inline(always)]
fn part<const N: usize>(window: &Window, at: usize) -> &[u8; N] {
    window[at..at + N].first_chunk().unwrap_or(&[0; N])
}

/// A bit for each byte from the window's place on that is no digit, the first in the lowest.
#[inline(always)]
pub fn others(window: &Window) -> u32 {
    machine::others(window)
}

/// The number that `count` digits spell, up to 16 of them, that end at `end` of the window.
#[inline(always)]
pub fn last(window: &Window, end: usize, count: usize) -> u64 {
    machine::last(window, end, count)
}

/// With SSE2, which every x86-64 has.
#[cfg(target_arch = "x86_64")]
mod simd {
    use std::arch::x86_64::*;

    use super::{PLACE, Window, part};

    #[inline(always)]
    fn load(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: sixteen bytes are there, and the load asks for no alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    pub fn others(window: &Window) -> u32 {
        let (low, high) = (part(window, PLACE), part(window, PLACE + 16));
        !(digits(low) | digits(high) << 16)
    }

    #[inline(always)]
    fn digits(bytes: &[u8; 16]) -> u32 {
        let text = load(bytes);
        // SAFETY: registers only, and SSE2 is a part of x86-64.
        unsafe {
            // What is below '0' wraps around and becomes large.
            let values = _mm_sub_epi8(text, _mm_set1_epi8(b'0' as i8));
            let digits = _mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values);
            _mm_movemask_epi8(digits) as u32
        }
    }

    #[inline(always)]
    pub fn last(window: &Window, end: usize, count: usize) -> u64 {
        /// From `count` on, 16 bytes of which the last `count` let digits through.
        const KEEP: [u8; 32] = {
            let mut keep = [0; 32];
            let mut n = 16;
            while n < 32 {
                keep[n] = 0x0f;
                n += 1;
            }
            keep
        };
        let keep = KEEP[count..].first_chunk().unwrap_or(&[0; 16]);
        let (text, keep) = (load(part(window, end - 16)), load(keep));
        // SAFETY: registers only, and SSE2 is a part of x86-64.
        let eights = unsafe {
            let values = _mm_and_si128(text, keep);
            let tens = _mm_mullo_epi16(values, _mm_set1_epi16(10));
            let pairs = _mm_add_epi16(tens, _mm_srli_epi16(values, 8));
            let pairs = _mm_and_si128(pairs, _mm_set1_epi16(0xff));
            let fours = _mm_madd_epi16(pairs, _mm_set1_epi32(1 << 16 | 100));
            let fours = _mm_packs_epi32(fours, fours);
            _mm_cvtsi128_si64(_mm_madd_epi16(fours, _mm_set1_epi32(1 << 16 | 10_000))) as u64
        };
        (eights & 0xffff_ffff) * 100_000_000 + (eights >> 32)
    }
}

/// The same without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub mod plain {
    use super::{PLACE, Window, eight_digits, part};

    pub fn others(window: &Window) -> u32 {
        let bits = |(n, byte): (usize, &u8)| u32::from(!byte.is_ascii_digit()) << n;
        part::<32>(window, PLACE).iter().enumerate().map(bits).fold(0, |all, bit| all | bit)
    }

    pub fn last(window: &Window, end: usize, count: usize) -> u64 {
        // The low nibbles of digits are their values; what comes before the digits is cut off.
        let text = u128::from_le_bytes(*part(window, end - 16)) & (u128::MAX / 0x11);
        let values = text.checked_shr(128 - 8 * count as u32).unwrap_or(0);
        let values = values.checked_shl(128 - 8 * count as u32).unwrap_or(0);
        eight_digits(values as u64) * 100_000_000 + eight_digits((values >> 64) as u64)
    }
}

/// The number that `count` digits spell, up to 4 of them, that begin at `at` of the window.
#[inline(always)]
pub fn first(window: &Window, at: usize, count: usize) -> u64 {
    let text = u32::from_le_bytes(*part(window, at)) & 0x0f0f_0f0f;
    // Moved to the end, with zeros before it.
    let values = (u64::from(text) << (32 - 8 * count)) as u32;
    let pairs = (values * 10 + (values >> 8)) & 0x00ff_00ff;
    u64::from((pairs & 0xff) * 100 + (pairs >> 16))
}

/// The number that eight digit values spell, the first in the lowest byte: neighbours are joined to pairs, pairs to
/// fours, fours to eight.
#[inline(always)]
pub fn eight_digits(values: u64) -> u64 {
    let pairs = (values.wrapping_mul(10).wrapping_add(values >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100).wrapping_add(pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32)) & 0xffff_ffff
}
