//! Marshalling: values to the lab's bytes and back (lab: `marshall.h`).
//!
//! Everything is big-endian. A string is its length and its bytes, a vector its count and its elements, a map its
//! count and its pairs in key order, a struct its fields in order ([`wire_struct!`](crate::wire_struct)).
//!
//! Invariants:
//! 1. Reading never panics and never allocates more than the bytes at hand justify, whatever they say.
//! 2. `unmarshal(marshal(v)) == v`, and a read leaves no byte over: [`decode`] refuses surplus bytes. (The one exception
//!    is a vector of values without bytes, which no message has: it can be written and not read.)

use std::collections::BTreeMap;

use byteorder::{BigEndian, ByteOrder, WriteBytesExt};

/// Why bytes could not be read as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnmarshalError {
    /// The bytes end before the value does.
    #[error("the bytes end before the value does")]
    Short,
    /// Bytes are left over after the value.
    #[error("{0} bytes are left over")]
    Surplus(usize),
    /// A string that must be text isn't UTF-8.
    #[error("a string is not UTF-8")]
    NotText,
}

/// Reads values off the front of some bytes.
#[derive(Debug)]
pub struct Unmarshaller<'a> {
    rest: &'a [u8],
}

impl<'a> Unmarshaller<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Unmarshaller { rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`UnmarshalError::Short`].
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], UnmarshalError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(UnmarshalError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next value.
    ///
    /// # Errors
    /// When the bytes aren't one.
    pub fn read<T: Unmarshal>(&mut self) -> Result<T, UnmarshalError> {
        T::unmarshal(self)
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// To be called after the last value.
    ///
    /// # Errors
    /// [`UnmarshalError::Surplus`] if bytes are left.
    pub fn finish(self) -> Result<(), UnmarshalError> {
        if self.rest.is_empty() { Ok(()) } else { Err(UnmarshalError::Surplus(self.rest.len())) }
    }
}

/// A value that can be put on the wire.
pub trait Marshal {
    /// Appends the value's bytes.
    fn marshal(&self, out: &mut Vec<u8>);
}

/// A value that can be read off the wire.
pub trait Unmarshal: Sized {
    /// Takes the value's bytes.
    ///
    /// # Errors
    /// When the bytes aren't such a value.
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError>;
}

/// The bytes of one value.
pub fn encode<T: Marshal + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.marshal(&mut out);
    out
}

/// The one value that `bytes` are, to the last byte.
///
/// # Errors
/// When they aren't.
pub fn decode<T: Unmarshal>(bytes: &[u8]) -> Result<T, UnmarshalError> {
    let mut input = Unmarshaller::new(bytes);
    let value = input.read()?;
    input.finish()?;
    Ok(value)
}

impl<T: Marshal + ?Sized> Marshal for &T {
    fn marshal(&self, out: &mut Vec<u8>) {
        (**self).marshal(out);
    }
}

impl Marshal for bool {
    fn marshal(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Unmarshal for bool {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        Ok(input.read::<u8>()? != 0)
    }
}

impl Marshal for u8 {
    fn marshal(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Unmarshal for u8 {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        Ok(input.take(1)?[0])
    }
}

macro_rules! integers {
    ($($int:ty, $write:ident, $read:ident;)*) => {$(
        impl Marshal for $int {
            fn marshal(&self, out: &mut Vec<u8>) {
                out.$write::<BigEndian>(*self).expect("a Vec takes all bytes");
            }
        }

        impl Unmarshal for $int {
            fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
                Ok(BigEndian::$read(input.take(size_of::<$int>())?))
            }
        }
    )*};
}

integers! {
    i16, write_i16, read_i16;
    u16, write_u16, read_u16;
    i32, write_i32, read_i32;
    u32, write_u32, read_u32;
    u64, write_u64, read_u64;
}

fn marshal_count(count: usize, out: &mut Vec<u8>) {
    // A PDU holds at most 10 MiB; what is longer is refused when it is sent.
    u32::try_from(count).unwrap_or(u32::MAX).marshal(out);
}

fn take_counted<'a>(input: &mut Unmarshaller<'a>) -> Result<&'a [u8], UnmarshalError> {
    let count = input.read::<u32>()?;
    input.take(count as usize)
}

/// A string of any bytes (lab: `std::string`), for what is not text: marshalled arguments, states.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Marshal for Bytes {
    fn marshal(&self, out: &mut Vec<u8>) {
        marshal_count(self.0.len(), out);
        out.extend_from_slice(&self.0);
    }
}

impl Unmarshal for Bytes {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        Ok(Bytes(take_counted(input)?.to_vec()))
    }
}

impl Marshal for str {
    fn marshal(&self, out: &mut Vec<u8>) {
        marshal_count(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Marshal for String {
    fn marshal(&self, out: &mut Vec<u8>) {
        self.as_str().marshal(out);
    }
}

impl Unmarshal for String {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        let text = std::str::from_utf8(take_counted(input)?).map_err(|_| UnmarshalError::NotText)?;
        Ok(text.to_owned())
    }
}

impl<T: Marshal> Marshal for Vec<T> {
    fn marshal(&self, out: &mut Vec<u8>) {
        marshal_count(self.len(), out);
        for element in self {
            element.marshal(out);
        }
    }
}

impl<T: Unmarshal> Unmarshal for Vec<T> {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        let count = input.read::<u32>()?;
        // Grown as elements arrive: the count is only a claim. Elements of no bytes would make the claim free, so there
        // are none.
        let mut elements = Vec::new();
        for _ in 0..count {
            let before = input.remaining();
            elements.push(input.read()?);
            if input.remaining() == before {
                return Err(UnmarshalError::Short);
            }
        }
        Ok(elements)
    }
}

impl<K: Marshal, V: Marshal> Marshal for BTreeMap<K, V> {
    fn marshal(&self, out: &mut Vec<u8>) {
        marshal_count(self.len(), out);
        for (key, value) in self {
            key.marshal(out);
            value.marshal(out);
        }
    }
}

impl<K: Unmarshal + Ord, V: Unmarshal> Unmarshal for BTreeMap<K, V> {
    fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
        let pairs: Vec<(K, V)> = input.read()?;
        Ok(pairs.into_iter().collect())
    }
}

macro_rules! tuples {
    ($(($($name:ident),*))*) => {$(
        impl<$($name: Marshal),*> Marshal for ($($name,)*) {
            #[allow(non_snake_case, unused_variables, reason = "one macro for all lengths")]
            fn marshal(&self, out: &mut Vec<u8>) {
                let ($($name,)*) = self;
                $($name.marshal(out);)*
            }
        }

        impl<$($name: Unmarshal),*> Unmarshal for ($($name,)*) {
            #[allow(unused_variables, clippy::unused_unit, reason = "one macro for all lengths")]
            fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
                Ok(($(input.read::<$name>()?,)*))
            }
        }
    )*};
}

tuples! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G)
(A, B, C, D, E, F, G, H) }

/// Defines a struct of public fields whose bytes are those of its fields in order.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }

        impl $crate::marshall::Marshal for $name {
            fn marshal(&self, out: &mut Vec<u8>) {
                $($crate::marshall::Marshal::marshal(&self.$field, out);)*
            }
        }

        impl $crate::marshall::Unmarshal for $name {
            fn unmarshal(
                input: &mut $crate::marshall::Unmarshaller<'_>,
            ) -> Result<Self, $crate::marshall::UnmarshalError> {
                Ok($name { $($field: input.read()?),* })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    wire_struct! {
        /// A struct as protocols have them.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(unreachable_pub, reason = "the macro defines public types")]
        pub struct Proposal {
            pub number: u32,
            pub node: String,
        }
    }

    fn golden<T: Marshal + Unmarshal + PartialEq + Debug>(value: T, bytes: &[u8]) {
        assert_eq!(encode(&value), bytes, "{value:?}");
        assert_eq!(decode::<T>(bytes).as_ref(), Ok(&value));
        for end in 0..bytes.len() {
            assert_eq!(decode::<T>(&bytes[..end]), Err(UnmarshalError::Short), "{value:?}, {end} bytes");
        }
        let longer = [bytes, &[0]].concat();
        assert_eq!(decode::<T>(&longer), Err(UnmarshalError::Surplus(1)), "{value:?}");
    }

    #[test]
    fn each_type_has_the_labs_bytes() {
        golden(true, &[1]);
        golden(false, &[0]);
        golden(0x7f_u8, &[0x7f]);
        golden(-2_i16, &[0xff, 0xfe]);
        golden(0x1234_u16, &[0x12, 0x34]);
        golden(-2_i32, &[0xff, 0xff, 0xff, 0xfe]);
        golden(0x0102_0304_u32, &[1, 2, 3, 4]);
        golden(0x0102_0304_0506_0708_u64, &[1, 2, 3, 4, 5, 6, 7, 8]);
        golden("ab".to_owned(), &[0, 0, 0, 2, b'a', b'b']);
        golden("\u{e9}".to_owned(), &[0, 0, 0, 2, 0xc3, 0xa9]);
        golden(String::new(), &[0, 0, 0, 0]);
        golden(Bytes(vec![0xff, 0]), &[0, 0, 0, 2, 0xff, 0]);
        golden(vec![1_u16, 2], &[0, 0, 0, 2, 0, 1, 0, 2]);
        golden(Vec::<u64>::new(), &[0, 0, 0, 0]);
        golden(BTreeMap::from([(2_u8, true), (1, false)]), &[0, 0, 0, 2, 1, 0, 2, 1]);
        golden((), &[]);
        golden((1_u8,), &[1]);
        golden((1_u8, 2_u16, (3_u8, "x".to_owned())), &[1, 0, 2, 3, 0, 0, 0, 1, b'x']);
        golden((1_u8, 2_u8, 3_u8, 4_u8, 5_u8, 6_u8, 7_u8, 8_u8), &[1, 2, 3, 4, 5, 6, 7, 8]);
        golden(Proposal { number: 3, node: "n".to_owned() }, &[0, 0, 0, 3, 0, 0, 0, 1, b'n']);
        assert_eq!(encode("ab"), encode(&"ab".to_owned()));
    }

    #[test]
    fn any_byte_but_zero_is_true() {
        assert_eq!(decode(&[0xa5]), Ok(true));
    }

    #[test]
    fn text_must_be_utf8_and_bytes_need_not() {
        let bytes = [0, 0, 0, 1, 0xff];
        assert_eq!(decode::<String>(&bytes), Err(UnmarshalError::NotText));
        assert_eq!(decode(&bytes), Ok(Bytes(vec![0xff])));
    }

    /// One byte on the wire, 64 KiB in memory: room for a claimed number of them can't be had.
    struct Large(#[allow(dead_code, reason = "only its size matters")] [u8; 1 << 16]);

    static READS: AtomicU32 = AtomicU32::new(0);

    impl Unmarshal for Large {
        fn unmarshal(input: &mut Unmarshaller<'_>) -> Result<Self, UnmarshalError> {
            READS.fetch_add(1, Ordering::Relaxed);
            Ok(Large([input.read()?; 1 << 16]))
        }
    }

    #[test]
    fn h15_vector_count_is_only_a_claim() {
        let bytes = [0xff, 0xff, 0xff, 0xf0, 1, 2, 3];
        assert_eq!(decode::<Vec<Large>>(&bytes).err(), Some(UnmarshalError::Short));
        assert_eq!(READS.load(Ordering::Relaxed), 4);
        assert_eq!(decode::<Vec<String>>(&bytes), Err(UnmarshalError::Short));
        assert_eq!(decode::<Vec<Vec<u64>>>(&bytes), Err(UnmarshalError::Short));
        assert_eq!(decode::<BTreeMap<u8, u8>>(&bytes), Err(UnmarshalError::Short));
    }

    #[test]
    fn h15_vector_of_nothing_does_not_spin() {
        let bytes = [0xff, 0xff, 0xff, 0xf0, 1];
        assert_eq!(decode::<Vec<()>>(&bytes), Err(UnmarshalError::Short));
        assert_eq!(decode::<Vec<()>>(&[0; 4]), Ok(vec![]));
    }

    #[test]
    fn h15_string_length_is_only_a_claim() {
        let bytes = [0xff, 0xff, 0xff, 0xf0, b'a'];
        assert_eq!(decode::<String>(&bytes), Err(UnmarshalError::Short));
        assert_eq!(decode::<Bytes>(&bytes), Err(UnmarshalError::Short));
    }

    /// Counts that are often small, so that more than the first value is read.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let chunk = prop_oneof![
            (0_u8..5).prop_map(|count| vec![0, 0, 0, count]),
            any::<[u8; 4]>().prop_map(|bytes| bytes.to_vec()),
            any::<u8>().prop_map(|byte| vec![byte]),
        ];
        vec(chunk, 0..20).prop_map(|chunks| chunks.concat())
    }

    /// What can be read is written as it was, unless the same value has several spellings.
    fn survives<T: Marshal + Unmarshal>(bytes: &[u8]) {
        let mut input = Unmarshaller::new(bytes);
        if let Ok(value) = input.read::<T>() {
            let read = bytes.len() - input.remaining();
            assert_eq!(encode(&value), bytes[..read]);
        }
    }

    fn text() -> impl Strategy<Value = String> {
        vec(any::<char>(), 0..9).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn values_round_trip(
            integers: (bool, u8, i16, u16, i32, u32, u64),
            text in text(),
            bytes in vec(any::<u8>(), 0..9),
            texts in vec(text(), 0..9),
            map in btree_map(any::<u64>(), (text(), any::<u8>()), 0..9),
            nested in vec(vec((any::<u32>(), text()), 0..5), 0..5),
            number: u32,
        ) {
            let value = (integers, text.clone(), Bytes(bytes), texts, map, nested, Proposal { number, node: text });
            prop_assert_eq!(decode(&encode(&value)), Ok(value));
        }

        #[test]
        fn h15_no_bytes_make_it_panic(bytes in hostile()) {
            survives::<String>(&bytes);
            survives::<Bytes>(&bytes);
            survives::<Vec<u8>>(&bytes);
            survives::<Vec<(u32, String)>>(&bytes);
            survives::<Vec<Vec<Bytes>>>(&bytes);
            survives::<(u32, i32, u64, i16, u16)>(&bytes);
            survives::<(String, Proposal, Vec<Proposal>)>(&bytes);
            let _ = decode::<BTreeMap<u8, Vec<bool>>>(&bytes);
            let _ = decode::<(bool, bool, Proposal, String)>(&bytes);
        }
    }
}
