//! The table: a region exists by having a row here.

use super::Effect::{self, Exactly};
use super::Row;
use super::Shown::{MrConfigId, Mrtd, Rtmr0, Rtmr1, Rtmr2, Rtmr3};

macro_rules! regions {
    ($($name:ident = $input:literal, $part:literal, $as_file:expr, $patched:expr, $refused:literal, $why:literal;)+) => {
        /// A part of an input.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Region {
            $(
                #[doc = concat!($input, ": ", $part, ".")]
                $name,
            )+
        }

        impl Region {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its row.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$name => Row {
                        input: $input,
                        part: $part,
                        as_file: $as_file,
                        patched: $patched,
                        refused: $refused,
                        why: $why,
                    },)+
                }
            }
        }
    };
}

/// Nothing.
const NONE: Effect = Exactly(&[]);

// Region = input, part, effect, effect where QEMU fills in the kernel's header, whether it may be refused, reason.
regions! {
    FirmwareCode = "firmware", "BFV: code", Exactly(&[Mrtd]), Exactly(&[Mrtd]), false,
        "`MR.EXTEND` measures each 256 bytes before the first instruction";
    FirmwareTable = "firmware", "GUIDed table at the end", Exactly(&[Mrtd]), Exactly(&[Mrtd]), true,
        "it lies in the BFV; its form leads to the metadata";
    FirmwareMetadata = "firmware", "TDVF metadata: section rows",
        Effect::Some(&[Mrtd, Rtmr0]), Effect::Some(&[Mrtd, Rtmr0]), true,
        "it lies in the BFV, and says which pages are added and what is CFV or listed as memory in the TD HOB";
    FirmwareVariables = "firmware", "CFV: variables", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "the firmware measures it when it starts; its pages are added by address alone";
    FirmwareVariablesExtended = "firmware", "CFV with `MR.EXTEND`",
        Exactly(&[Mrtd, Rtmr0]), Exactly(&[Mrtd, Rtmr0]), false,
        "both; no known firmware asks for it";
    FirmwareUnclaimed = "firmware", "bytes of no section", NONE, NONE, false,
        "the machine never has them";

    PeCheckSum = "bzImage, casemate.efi", "`CheckSum`", NONE, NONE, false,
        "Authenticode leaves it out, and the firmware does not look";
    PeCertificatePlace = "bzImage, casemate.efi", "certificate table's entry: place", NONE, NONE, true,
        "Authenticode leaves it out; it must lead into the file";
    PeCertificateSize = "bzImage, casemate.efi", "certificate table's entry: size",
        Effect::Some(&[Rtmr1]), Effect::Some(&[Rtmr1]), true,
        "left out itself, but so many bytes at the end are left out as well";
    PeCertificates = "bzImage, casemate.efi", "certificate table: signatures", NONE, NONE, false,
        "Authenticode leaves it out; without secure boot nobody reads it";
    PeTrailing = "bzImage, casemate.efi", "bytes behind the last section", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), false,
        "Authenticode goes on to the end, certificates aside";
    PeGap = "bzImage, casemate.efi", "bytes between sections", NONE, NONE, false,
        "the firmware neither measures nor loads what no section has";
    KernelHeaders = "bzImage", "PE headers and section table", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), true,
        "Authenticode begins with them";
    KernelSetupHeader = "bzImage", "setup header: what QEMU reads or leaves alone",
        Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), true,
        "Authenticode has it, and what QEMU writes follows from it";
    KernelLoadFlags = "bzImage", "setup header: `loadflags`", Exactly(&[Rtmr1]), Effect::Some(&[Rtmr1]), false,
        "QEMU sets `CAN_USE_HEAP` in it, whatever it was, and keeps the rest";
    KernelWritten = "bzImage",
        "setup header: `type_of_loader`, `ramdisk_image`, `ramdisk_size`, `heap_end_ptr`, `cmd_line_ptr`",
        Exactly(&[Rtmr1]), NONE, false,
        "QEMU writes its own over them";
    KernelSection = "bzImage", "sections", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), false,
        "Authenticode has all that is loaded";

    UkiHeaders = "casemate.efi", "PE headers and section table",
        Effect::Some(&[Rtmr1, Rtmr2]), Effect::Some(&[Rtmr1, Rtmr2]), true,
        "Authenticode begins with them, and the stub finds by them what it measures";
    UkiWritten = "casemate.efi", "DOS header: `0x20` to `0x23`", Exactly(&[Rtmr1]), NONE, false,
        "QEMU before 10.0 takes the file for an old kernel and writes where its command line is";
    UkiStubVersion = "casemate.efi", "section .sdmagic", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), true,
        "Authenticode has it; a stub of another version measures other things";
    UkiKernel = "casemate.efi", "section .linux", Exactly(&[Rtmr1, Rtmr2]), Exactly(&[Rtmr1, Rtmr2]), true,
        "in the image's digest and its own (RTMR1), and measured by the stub (RTMR2), fields that Authenticode leaves out too";
    UkiCommandLine = "casemate.efi", "section .cmdline", Exactly(&[Rtmr1, Rtmr2]), Exactly(&[Rtmr1, Rtmr2]), true,
        "in the image's digest, and measured by the stub and by Linux; only ASCII is taken";
    UkiMeasured = "casemate.efi", "sections .osrel, .initrd, .ucode, .splash, .uname, .sbat, .pcrpkey",
        Exactly(&[Rtmr1, Rtmr2]), Exactly(&[Rtmr1, Rtmr2]), false,
        "in the image's digest, and measured by the stub";
    UkiSignature = "casemate.efi", "section .pcrsig", Exactly(&[Rtmr1, Rtmr2]), Exactly(&[Rtmr1, Rtmr2]), false,
        "in the image's digest; not measured by the stub, but by Linux, as a file of the initramfs";
    UkiOther = "casemate.efi", "the stub's other sections, and padding", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), false,
        "in the image's digest alone";

    CommandLine = "command line", "text", Exactly(&[Rtmr2]), Exactly(&[Rtmr2]), true,
        "Linux measures it as it got it; what QEMU would act on (`vga=`) is refused where it fills in the header";
    CommandLineLength = "command line", "length", Exactly(&[Rtmr2]), Effect::Some(&[Rtmr1, Rtmr2]), false,
        "QEMU leaves room for it in front of 0x9a000: for a kernel that is loaded low, and then writes where";
    Initramfs = "initramfs", "content", Exactly(&[Rtmr2]), Exactly(&[Rtmr2]), false,
        "Linux measures all of it";
    InitramfsLength = "initramfs", "length", Exactly(&[Rtmr2]), Exactly(&[Rtmr1, Rtmr2]), true,
        "QEMU writes length and place into the header, and takes no more than fits";
    Document = "document", "every byte", Exactly(&[Rtmr3, MrConfigId]), Exactly(&[Rtmr3, MrConfigId]), true,
        "compose hash and app id are measured, and bound at launch";
    Instance = "instance id", "all", Exactly(&[Rtmr3]), Exactly(&[Rtmr3]), false,
        "an event of its own";
    AcpiTables = "ACPI digests", "all three", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "the firmware measures the tables before it uses them";

    Memory = "`memory_mib`", "size", Exactly(&[Rtmr0]), Effect::Some(&[Rtmr0, Rtmr1]), true,
        "TD HOB; below 2816 MiB the ACPI tables, and the initramfs's place in the header";
    Cpus = "`cpus`", "number", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "the ACPI tables list them, and nothing else does";
    Qemu = "`qemu`", "version", Effect::Some(&[Mrtd, Rtmr0, Rtmr1]), Effect::Some(&[Mrtd, Rtmr0, Rtmr1]), false,
        "order of pages, ACPI tables, and whether the kernel's header is filled in";
    Machine = "`machine`", "devices and options", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "the ACPI tables describe them";
    PageOrder = "`page_order`", "single pass or two", Exactly(&[Mrtd]), Exactly(&[Mrtd]), false,
        "the same records in another order";
    SetupHeader = "`setup_header`", "left alone or filled in", Exactly(&[Rtmr1]), Exactly(&[Rtmr1]), false,
        "the kernel as the firmware sees it";
    InitrdArgument = "`initrd_argument`", "appended or prepended", Exactly(&[Rtmr2]), Exactly(&[Rtmr2]), false,
        "the command line as Linux gets it";
    FirmwareLayout = "`firmware_layout`", "before or from edk2-stable202505", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "which events there are";
    SecureBoot = "`secure_boot`", "content of the variables", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "the firmware measures each";
    FwCfg = "`fw_cfg`", "items", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "firmware from edk2-stable202505 on measures each that is there";
    Smbios = "`smbios`", "digest", Exactly(&[Rtmr0]), Exactly(&[Rtmr0]), false,
        "firmware from edk2-stable202505 on measures the tables";
}
