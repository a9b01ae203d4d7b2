//! The one DER form that the extensions need: an OCTET STRING (ITU-T X.690, 8.7 and 10.1).

/// Tag of an OCTET STRING.
const OCTET_STRING: u8 = 0x04;

/// Wraps bytes.
pub(super) fn octet_string(content: &[u8]) -> Vec<u8> {
    let mut der = vec![OCTET_STRING];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let length: Vec<u8> =
                content.len().to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            // A length has at most 8 bytes: the count fits beside the flag.
            der.push(0x80 | u8::try_from(length.len()).unwrap_or(0x7e));
            der.extend(length);
        }
    }
    der.extend(content);
    der
}

/// The content of exactly one OCTET STRING in the shortest form, with nothing behind it.
pub(super) fn read_octet_string(der: &[u8]) -> Option<&[u8]> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let content = if first < 0x80 { rest } else { rest.split_at_checked(usize::from(first & 0x7f))?.1 };
    // Encoding again and comparing refuses every longer form at once.
    (tag == OCTET_STRING && octet_string(content) == der).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_unwraps_at_every_length_form() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![0x5a; length];
            let der = octet_string(&content);
            assert_eq!(read_octet_string(&der), Some(content.as_slice()), "{length}");
        }
        assert_eq!(octet_string(&[1, 2]), [4, 2, 1, 2]);
        assert_eq!(octet_string(&[0; 128])[..3], [4, 0x81, 128]);
    }

    #[test]
    fn other_forms_are_refused() {
        let bad: &[&[u8]] = &[
            &[],
            &[4],
            &[5, 0],
            &[4, 1],
            &[4, 1, 2, 3],
            &[4, 0x81, 1, 7],
            &[4, 0x80, 0, 0],
            &[0x24, 0x80, 0, 0],
            &[4, 0x82, 0, 1, 7],
            &[4, 0xff],
        ];
        for der in bad {
            assert_eq!(read_octet_string(der), None, "{der:?}");
        }
    }
}
