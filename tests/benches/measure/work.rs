//! The files of an image, and what is done with them.

use std::fs;
use std::hint::black_box;
use std::path::Path;

use anyhow::{Context as _, bail};
use casemate_measure::identity::{InstanceId, MrConfigId};
use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::tdx::rtmr3::{Boot, Instance};
use casemate_measure::tdx::{AcpiSource, AcpiTable, Image, Measured, Payload, QemuVersion, Vm};
use casemate_measure::{MeasuredConfig, Platform};
use sha2::{Digest as _, Sha384};

/// Which boot of which QEMU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Case {
    /// Kernel and initramfs, pages in one pass, the kernel's header left alone: QEMU 10.0.
    Direct,
    /// Kernel and initramfs, pages in two passes, the header filled in: QEMU 8.2.
    DirectOld,
    /// The unified kernel image, QEMU 10.0.
    Uki,
}

/// All of them.
pub(crate) const CASES: [Case; 3] = [Case::Direct, Case::DirectOld, Case::Uki];

impl Case {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Direct => "registers-qemu-10",
            Self::DirectOld => "registers-qemu-8",
            Self::Uki => "registers-uki",
        }
    }

    pub(crate) fn of(word: &str) -> anyhow::Result<Self> {
        CASES.into_iter().find(|case| case.word() == word).with_context(|| format!("no case {word:?}"))
    }

    pub(crate) const fn promised(self) -> bool {
        matches!(self, Self::Direct | Self::DirectOld)
    }

    const fn qemu(self) -> QemuVersion {
        match self {
            Self::Direct | Self::Uki => QemuVersion::new(10, 0, 13),
            Self::DirectOld => QemuVersion::new(8, 2, 2),
        }
    }
}

/// What is done once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Nothing: the files are read.
    Nothing,
    /// SHA-384 over the bytes.
    Plain,
    /// Every register.
    Registers,
    /// Every register, and what it would be on other machines.
    Alternatives,
}

impl Work {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Plain => "plain",
            Self::Registers => "registers",
            Self::Alternatives => "alternatives",
        }
    }

    pub(crate) fn of(word: &str) -> anyhow::Result<Self> {
        let all = [Self::Nothing, Self::Plain, Self::Registers, Self::Alternatives];
        all.into_iter().find(|work| work.word() == word).with_context(|| format!("no work {word:?}"))
    }

    pub(crate) fn run(self, files: &Files, case: Case) -> anyhow::Result<()> {
        match self {
            Self::Nothing => {}
            Self::Plain => {
                let mut hash = Sha384::new();
                files.of(case).iter().for_each(|file| hash.update(file));
                black_box(hash.finalize());
            }
            Self::Registers => files.registers(case, false)?,
            Self::Alternatives => files.registers(case, true)?,
        }
        Ok(())
    }
}

/// Of an image directory.
pub(crate) struct Files {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    cmdline: String,
    uki: Vec<u8>,
    document: Vec<u8>,
}

impl Files {
    pub(crate) fn read(image: &Path) -> anyhow::Result<Self> {
        let at = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
        let read = |name: &str| at(&image.join(name));
        let files = Self {
            firmware: read("ovmf.fd")?,
            kernel: read("bzImage")?,
            initramfs: read("initramfs.cpio.zst")?,
            cmdline: String::from_utf8(read("cmdline")?)?,
            uki: read("casemate.efi")?,
            document: at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(crate::DOCUMENT))?,
        };
        if files.lengths().contains(&0) {
            bail!("{}: expected files that are not empty", image.display());
        }
        Ok(files)
    }

    pub(crate) const fn lengths(&self) -> [usize; 4] {
        [self.firmware.len(), self.kernel.len(), self.initramfs.len(), self.uki.len()]
    }

    fn of(&self, case: Case) -> Vec<&[u8]> {
        match case {
            Case::Direct | Case::DirectOld => vec![&self.firmware, &self.kernel, &self.initramfs],
            Case::Uki => vec![&self.firmware, &self.uki],
        }
    }

    /// As `cargo measure image` does it, of a machine that was captured.
    fn registers(&self, case: Case, alternatives: bool) -> anyhow::Result<()> {
        let config = MeasuredConfig::parse("app-compose.json", &self.document, Platform::Appliance)?;
        let boot = Boot { instance: Instance::Known(InstanceId([1; 20])), ..Boot::of(&config) };
        let measured = Measured { mrconfigid: MrConfigId::v1(&boot.compose_hash), boot };
        let vm = Vm::new(case.qemu(), 2048, 2);
        let captured = AcpiTable::captured();
        let firmware = Hash256::of(&self.firmware);
        let acpi = AcpiSource::choose(None, Some(&captured), &vm, &firmware.0);
        let payload = match case {
            Case::Direct | Case::DirectOld => {
                Payload::Direct { kernel: &self.kernel, initramfs: &self.initramfs, cmdline: &self.cmdline }
            }
            Case::Uki => Payload::Uki(&self.uki),
        };
        let image = Image { firmware: &self.firmware, payload, os_image_hash: None };
        let mut expected = image.expected(&vm, &acpi, Some(&measured))?;
        if alternatives {
            expected.alternatives = image.alternatives(&vm, &[&captured], &firmware, &expected)?;
        }
        black_box(&expected);
        Ok(())
    }
}
