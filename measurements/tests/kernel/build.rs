//! PE images from nothing, as `Microsoft PE Format` lays them out: just enough for the firmware's rules.

/// What is in an image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) plus: bool,
    /// Directories; the fifth is the certificate table.
    pub(crate) directories: u32,
    /// Name, place in memory, length in memory, content. In the table's order; content follows in `file_order`.
    pub(crate) sections: Vec<(&'static str, u32, u32, Vec<u8>)>,
    pub(crate) file_order: Vec<usize>,
    /// Behind the sections.
    pub(crate) trailing: Vec<u8>,
    pub(crate) certificates: Vec<u8>,
    pub(crate) headers: usize,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            plus: true,
            directories: 16,
            sections: vec![
                (".text", 0x1000, 600, vec![0xaa; 1024]),
                (".bss", 0x2000, 512, Vec::new()),
                (".data", 0x3000, 512, vec![0xbb; 512]),
            ],
            file_order: vec![2, 0],
            trailing: Vec::new(),
            certificates: Vec::new(),
            headers: 512,
        }
    }
}

/// Where the optional header begins: behind a DOS header, signature and COFF header.
pub(crate) const OPTIONAL: usize = 0x40 + 24;

impl Image {
    pub(crate) fn directories_at(&self) -> usize {
        OPTIONAL + if self.plus { 112 } else { 96 }
    }

    pub(crate) fn table_at(&self) -> usize {
        self.directories_at() + 8 * self.directories as usize
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; self.headers];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        let word = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        let half = |value: usize| u16::try_from(value).unwrap().to_le_bytes();
        put(0, b"MZ");
        put(0x3c, &word(0x40));
        put(0x40, b"PE\0\0");
        put(0x44, &half(0x8664));
        put(0x46, &half(self.sections.len()));
        put(0x54, &half(self.table_at() - OPTIONAL));
        put(OPTIONAL, &half(if self.plus { 0x20b } else { 0x10b }));
        put(OPTIONAL + 32, &word(0x1000));
        put(OPTIONAL + 36, &word(512));
        put(OPTIONAL + 56, &word(0x10_0000));
        put(OPTIONAL + 60, &word(self.headers));
        put(OPTIONAL + 64, b"SUM!");
        put(OPTIONAL + 68, &half(10));
        put(self.directories_at() - 4, &word(self.directories as usize));
        let mut at = self.headers;
        let mut places = vec![0; self.sections.len()];
        for index in &self.file_order {
            places[*index] = at;
            at += self.sections[*index].3.len();
        }
        for (index, (name, address, size, content)) in self.sections.iter().enumerate() {
            let row = self.table_at() + 40 * index;
            put(row, name.as_bytes());
            put(row + 8, &size.to_le_bytes());
            put(row + 12, &address.to_le_bytes());
            put(row + 16, &word(content.len()));
            put(row + 20, &word(places[index]));
        }
        if !self.certificates.is_empty() {
            put(self.directories_at() + 32, &word(at + self.trailing.len()));
            put(self.directories_at() + 36, &word(self.certificates.len()));
        }
        for index in &self.file_order {
            file.extend(&self.sections[*index].3);
        }
        file.extend(&self.trailing);
        file.extend(&self.certificates);
        file
    }
}

/// A kernel for QEMU that is a PE image as well: its setup header lies behind the section table, in the first section.
pub(crate) fn kernel() -> Vec<u8> {
    let setup: Vec<u8> = (0..4096_u32).map(|n| (n % 251) as u8).collect();
    let image = Image {
        directories: 6,
        sections: vec![(".setup", 0x1000, 4096, setup), (".text", 0x3000, 8192, vec![0x90; 8192])],
        file_order: vec![0, 1],
        certificates: vec![0x5a; 256],
        headers: 0x1e8,
        ..Image::default()
    };
    let mut file = image.bytes();
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[7]);
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &0x7f_u16.to_le_bytes());
    file
}
