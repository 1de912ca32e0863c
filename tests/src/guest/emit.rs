//! A tiny emitter of 32-bit x86 machine code: just the instructions the guest's program uses.
//!
//! The repository builds with cargo alone, so there is no assembler to ask. Every method appends
//! one instruction and is named for it; operands come in the order target, source.
//!
//! Not here: operand sizes other than the ones the program needs, relaxation of jumps (every
//! jump takes its long form), and relocations (the program is loaded at one fixed address).

/// A general register, numbered as the processor numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    Eax = 0,
    Ecx = 1,
    Edx = 2,
    Ebx = 3,
    Esp = 4,
    Ebp = 5,
    Esi = 6,
    Edi = 7,
}

impl Reg {
    const fn number(self) -> u8 {
        self as u8
    }
}

/// A place in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mem {
    /// A fixed address.
    At(u32),
    /// A register plus a displacement; `Esp` would need another form and is refused.
    Off(Reg, u32),
}

/// The condition of a jump.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    Below = 0x2,
    Zero = 0x4,
    NotZero = 0x5,
    NotAbove = 0x6,
}

/// A place in the code that jumps can name before it is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label(usize);

/// The code so far, and the jumps that still wait for their label.
#[derive(Debug)]
pub(super) struct Emitter {
    origin: u32,
    bytes: Vec<u8>,
    labels: Vec<Option<u32>>,
    /// Offset of a 4-byte hole, its label, and whether the hole wants a distance or an address.
    holes: Vec<(usize, Label, Hole)>,
}

#[derive(Debug, Clone, Copy)]
enum Hole {
    Distance,
    Address,
}

impl Emitter {
    /// Starts empty code that will be loaded at `origin`.
    pub(super) fn new(origin: u32) -> Self {
        Self {
            origin,
            bytes: Vec::new(),
            labels: Vec::new(),
            holes: Vec::new(),
        }
    }

    /// The address of the next byte.
    pub(super) fn here(&self) -> u32 {
        self.origin + offset(self.bytes.len())
    }

    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub(super) fn bind(&mut self, label: Label) {
        let here = self.here();
        if let Some(slot) = self.labels.get_mut(label.0) {
            assert!(slot.is_none(), "BUG: a label is bound twice");
            *slot = Some(here);
        }
    }

    /// Fills the holes and gives the code away.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for (at, label, hole) in std::mem::take(&mut self.holes) {
            let target = self.labels.get(label.0).copied().flatten();
            assert!(target.is_some(), "BUG: a label is used and never bound");
            let target = target.unwrap_or_default();
            let value = match hole {
                Hole::Address => target,
                Hole::Distance => target.wrapping_sub(self.origin + offset(at) + 4),
            };
            self.patch(at, value);
        }
        self.bytes
    }

    fn patch(&mut self, at: usize, value: u32) {
        if let Some(hole) = self.bytes.get_mut(at..at + 4) {
            hole.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn word(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// A 4-byte address that is known once the label is bound.
    pub(super) fn address_of(&mut self, label: Label) {
        self.hole(label, Hole::Address);
    }

    fn hole(&mut self, label: Label, hole: Hole) {
        self.holes.push((self.bytes.len(), label, hole));
        self.word(0);
    }

    /// The byte that names a register operand and a memory operand, with its displacement.
    fn operand(&mut self, reg: u8, mem: Mem) {
        match mem {
            Mem::At(address) => {
                self.raw(&[reg << 3 | 0b101]);
                self.word(address);
            }
            Mem::Off(base, displacement) => {
                assert!(base != Reg::Esp, "BUG: esp as a base is not emitted");
                self.raw(&[0b10 << 6 | reg << 3 | base.number()]);
                self.word(displacement);
            }
        }
    }

    fn pair(&mut self, opcode: u8, reg: u8, rm: Reg) {
        self.raw(&[opcode, 0b11 << 6 | reg << 3 | rm.number()]);
    }

    pub(super) fn cli(&mut self) {
        self.raw(&[0xFA]);
    }

    pub(super) fn sti(&mut self) {
        self.raw(&[0xFB]);
    }

    pub(super) fn hlt(&mut self) {
        self.raw(&[0xF4]);
    }

    pub(super) fn iret(&mut self) {
        self.raw(&[0xCF]);
    }

    pub(super) fn push(&mut self, reg: Reg) {
        self.raw(&[0x50 + reg.number()]);
    }

    pub(super) fn pop(&mut self, reg: Reg) {
        self.raw(&[0x58 + reg.number()]);
    }

    pub(super) fn mov_const(&mut self, reg: Reg, value: u32) {
        self.raw(&[0xB8 + reg.number()]);
        self.word(value);
    }

    pub(super) fn mov_label(&mut self, reg: Reg, label: Label) {
        self.raw(&[0xB8 + reg.number()]);
        self.address_of(label);
    }

    pub(super) fn mov(&mut self, to: Reg, from: Reg) {
        self.pair(0x89, from.number(), to);
    }

    pub(super) fn load(&mut self, reg: Reg, mem: Mem) {
        self.raw(&[0x8B]);
        self.operand(reg.number(), mem);
    }

    /// Loads one byte into the low byte of `eax`.
    pub(super) fn load_al(&mut self, mem: Mem) {
        self.raw(&[0x8A]);
        self.operand(0, mem);
    }

    pub(super) fn store(&mut self, mem: Mem, reg: Reg) {
        self.raw(&[0x89]);
        self.operand(reg.number(), mem);
    }

    pub(super) fn add(&mut self, to: Reg, mem: Mem) {
        self.raw(&[0x03]);
        self.operand(to.number(), mem);
    }

    pub(super) fn sub(&mut self, to: Reg, mem: Mem) {
        self.raw(&[0x2B]);
        self.operand(to.number(), mem);
    }

    pub(super) fn cmp(&mut self, reg: Reg, mem: Mem) {
        self.raw(&[0x3B]);
        self.operand(reg.number(), mem);
    }

    pub(super) fn add_const(&mut self, reg: Reg, value: u32) {
        self.pair(0x81, 0, reg);
        self.word(value);
    }

    pub(super) fn adc_const(&mut self, reg: Reg, value: u32) {
        self.pair(0x81, 2, reg);
        self.word(value);
    }

    pub(super) fn and_const(&mut self, reg: Reg, value: u32) {
        self.pair(0x81, 4, reg);
        self.word(value);
    }

    pub(super) fn cmp_const(&mut self, reg: Reg, value: u32) {
        self.pair(0x81, 7, reg);
        self.word(value);
    }

    /// Multiplies and keeps the low half.
    pub(super) fn imul_const(&mut self, reg: Reg, value: u32) {
        self.pair(0x69, reg.number(), reg);
        self.word(value);
    }

    /// Multiplies `eax` by the operand into `edx:eax`.
    pub(super) fn mul(&mut self, mem: Mem) {
        self.raw(&[0xF7]);
        self.operand(4, mem);
    }

    /// Divides `edx:eax` by the register: quotient to `eax`, remainder to `edx`.
    pub(super) fn div(&mut self, reg: Reg) {
        self.pair(0xF7, 6, reg);
    }

    pub(super) fn shl(&mut self, reg: Reg, bits: u8) {
        self.pair(0xC1, 4, reg);
        self.raw(&[bits]);
    }

    pub(super) fn inc(&mut self, reg: Reg) {
        self.raw(&[0x40 + reg.number()]);
    }

    pub(super) fn dec(&mut self, reg: Reg) {
        self.raw(&[0x48 + reg.number()]);
    }

    pub(super) fn test(&mut self, reg: Reg) {
        self.pair(0x85, reg.number(), reg);
    }

    pub(super) fn test_al(&mut self, mask: u8) {
        self.raw(&[0xA8, mask]);
    }

    pub(super) fn jmp(&mut self, label: Label) {
        self.raw(&[0xE9]);
        self.hole(label, Hole::Distance);
    }

    pub(super) fn jump(&mut self, when: When, label: Label) {
        self.raw(&[0x0F, 0x80 + when as u8]);
        self.hole(label, Hole::Distance);
    }

    /// Jumps into another code segment.
    pub(super) fn jmp_far(&mut self, selector: u8, label: Label) {
        self.raw(&[0xEA]);
        self.address_of(label);
        self.raw(&[selector, 0]);
    }

    /// Loads `ds`, `es` and `ss` from the low half of `eax`.
    pub(super) fn mov_data_segments(&mut self) {
        self.raw(&[0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0]);
    }

    pub(super) fn lgdt(&mut self, label: Label) {
        self.raw(&[0x0F, 0x01, 0x15]);
        self.address_of(label);
    }

    pub(super) fn lidt(&mut self, label: Label) {
        self.raw(&[0x0F, 0x01, 0x1D]);
        self.address_of(label);
    }

    /// Writes a constant byte to a port below 256; spoils the low byte of `eax`.
    pub(super) fn out_const(&mut self, port: u8, value: u8) {
        self.raw(&[0xB0, value, 0xE6, port]);
    }

    /// Writes the low byte of `eax` to the port in `edx`.
    pub(super) fn out_al(&mut self) {
        self.raw(&[0xEE]);
    }

    /// Reads a byte from the port in `edx`.
    pub(super) fn in_al(&mut self) {
        self.raw(&[0xEC]);
    }

    /// Reads four bytes from the port in `edx`.
    pub(super) fn in_eax(&mut self) {
        self.raw(&[0xED]);
    }
}

/// A position in the code as an address: the program is a few kilobytes, so it always fits.
fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
