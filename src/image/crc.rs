//! Cyclic redundancy checks, as gzip (RFC 1952, section 8) and xz have them: bits reflected, complemented at both ends.
//!
//! One piece of code for every width up to 64 bits, four bytes at a time ("slicing by 4"); the tables are made when they
//! are needed, in a few microseconds, as they are larger than the code.

pub const CRC32: u64 = 0xedb8_8320;
#[cfg(feature = "xz")]
pub const CRC64: u64 = 0xc96c_5795_d787_0f42;

pub struct Crc {
    /// What a byte, and one that has 1, 2 or 3 others behind it, does to the remainder.
    tables: Box<[[u64; 256]; 4]>,
    all_ones: u64,
    remainder: u64,
}

impl Crc {
    /// Of a polynomial with as many bits as the check.
    pub fn new(polynomial: u64) -> Crc {
        let mut tables = Box::new([[0; 256]; 4]);
        for byte in 0..256 {
            let mut crc = byte as u64;
            for _ in 0..8 {
                crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
            }
            tables[0][byte] = crc;
        }
        for index in 256..1024 {
            let (table, byte) = (index / 256, index % 256);
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][usize::from(before as u8)];
        }
        let all_ones = !0 >> polynomial.leading_zeros();
        Crc {
            tables,
            all_ones,
            remainder: all_ones,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        let [last, third, second, first] = &*self.tables;
        let (words, rest) = bytes.as_chunks::<4>();
        let mut crc = self.remainder;
        for word in words {
            let [a, b, c, d] = (crc as u32 ^ u32::from_le_bytes(*word)).to_le_bytes();
            let [a, b, c, d] = [a, b, c, d].map(usize::from);
            crc = (crc >> 32) ^ first[a] ^ second[b] ^ third[c] ^ last[d];
        }
        for byte in rest {
            crc = (crc >> 8) ^ last[usize::from(crc as u8 ^ byte)];
        }
        self.remainder = crc;
    }

    /// The check of the bytes so far; begins anew.
    pub fn take(&mut self) -> u64 {
        std::mem::replace(&mut self.remainder, self.all_ones) ^ self.all_ones
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_catalogue() {
        let mut crc = Crc::new(CRC32);
        for parts in [&["123456789"][..], &["12", "3456789"]] {
            for part in parts {
                crc.update(part.as_bytes());
            }
            assert_eq!(crc.take(), 0xcbf4_3926);
        }
    }

    #[test]
    #[cfg(feature = "xz")]
    fn the_check_value_of_64_bits() {
        let mut crc = Crc::new(CRC64);
        crc.update(b"123456789");
        assert_eq!(crc.take(), 0x995d_c9bb_df19_39fa);
    }
}
