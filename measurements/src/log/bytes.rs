//! Little-endian fields of a binary form, read from the front.

use std::fmt::Display;

use super::Form;
use super::error::Problem;

pub(super) struct Reader<'a> {
    form: Form,
    bytes: &'a [u8],
    at: usize,
    /// Which event is being read.
    pub(super) event: Option<usize>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(form: Form, bytes: &'a [u8]) -> Self {
        Self { form, bytes, at: 0, event: None }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn wrong(
        &self,
        field: &'static str,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Problem {
        let (expected, found) = (expected.into(), found.to_string());
        Problem::Binary { form: self.form, field, byte: self.at, event: self.event, expected, found }
    }

    pub(super) fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], Problem> {
        let rest = self.rest();
        let taken = rest
            .get(..length)
            .ok_or_else(|| self.wrong(field, format!("{length} more bytes"), rest.len()))?;
        self.at = self.at.saturating_add(length);
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Problem> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// A part whose length stands before it.
    pub(super) fn part(&mut self, field: &'static str) -> Result<&'a [u8], Problem> {
        let length = self.u32(field)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX), field)
    }
}
