//! The program the guest runs, as bytes: a multiboot image that needs no disk and no system.
//!
//! It fills memory with pseudo-random words, says so on the serial line, then sleeps by `hlt`
//! and at every timer tick writes as many pages as have fallen due since the last one.
//! What is due follows the ACPI power-management timer, which QEMU drives by guest time, so a
//! lost tick loses no writes. At most [`CATCH_UP`] of arrears is made up: a guest that is held
//! back by its host (auto-converge) really does less, as a busy guest would.
//!
//! Not here: paging, more than one processor (the others stay halted), and any device but the
//! interrupt controller, the interval timer, the power-management timer and the serial line.

use super::emit::{Emitter, Label, Mem, Reg, When};

/// Where the image is loaded.
const ORIGIN: u32 = 0x10_0000;
/// Where the memory begins that is filled and dirtied.
pub(super) const AREA: u32 = 0x20_0000;
/// The number of page sets written independently of each other.
pub(super) const GROUPS: usize = 8;
/// Where the guest counts the pages it has written since its memory was filled; 32 bits, which go round.
pub(super) const WRITTEN: u32 = ORIGIN + 0x30;
/// What the guest writes to its serial line once its memory is filled.
pub(super) const FILLED: &str = "plimsoll guest: filled";

const STACK: u32 = 0x7000;
const PAGE_BITS: u8 = 12;
const CODE: u8 = 0x08;
const DATA: u8 = 0x10;
/// The first interrupt vector that no exception uses.
const TIMER_VECTOR: u8 = 0x20;
const VECTORS: usize = 0x30;
/// The interval timer's 1 193 182 Hz divided by this is the tick: 100 Hz.
const TICK_DIVISOR: u16 = 11_932;
/// The power-management timer where SeaBIOS puts it on the `pc` machine, its width and its rate.
const PM_TIMER_PORT: u32 = 0x608;
const PM_TIMER_MASK: u32 = 0x00FF_FFFF;
const PM_TIMER_HZ: u32 = 3_579_545;
/// One tenth of a second of arrears.
const CATCH_UP: u32 = PM_TIMER_HZ / 10;
const SERIAL_DATA: u32 = 0x3F8;
const SERIAL_STATUS: u32 = 0x3FD;
const SERIAL_READY: u8 = 0x20;
/// Constants of a full-period linear congruential generator modulo 2^32.
const LCG_FACTOR: u32 = 1_664_525;
const LCG_STEP: u32 = 1_013_904_223;

/// How the pages of a group are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// At random, each page as likely as the next.
    Uniform = 0,
    /// One after the other, round and round.
    Cyclic = 1,
}

/// One set of pages, written at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) first_page: u32,
    pub(super) pages: u32,
    pub(super) pages_per_second: u32,
    pub(super) order: Order,
}

/// What one guest does: the constants patched into its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) fill_bytes: u32,
    pub(super) seed: u32,
    pub(super) groups: Vec<Group>,
}

/// Offsets inside a group's record, and its size.
const FIRST: u32 = 0;
const PAGES: u32 = 4;
const RATE: u32 = 8;
const ORDER: u32 = 12;
const REST: u32 = 16;
const CURSOR: u32 = 20;
const GROUP_BYTES: u32 = 24;

/// The addresses of the program's variables.
struct Variables {
    fill_words: u32,
    seed: u32,
    last: u32,
    elapsed: u32,
    written: u32,
    groups: u32,
}

/// The labels of the tables at the end of the image.
struct Tables {
    gdtr: Label,
    idtr: Label,
    flat: Label,
    text: Label,
}

/// Renders the whole image.
pub(super) fn image(parameters: &Parameters) -> Vec<u8> {
    let mut code = Emitter::new(ORIGIN);
    let entry = code.label();
    let end = code.label();
    header(&mut code, entry, end);
    let variables = variables(&mut code, parameters);
    let tables = Tables {
        gdtr: code.label(),
        idtr: code.label(),
        flat: code.label(),
        text: code.label(),
    };
    code.bind(entry);
    processor(&mut code, &tables);
    timer(&mut code);
    fill(&mut code, &variables);
    announce(&mut code, tables.text);
    if parameters
        .groups
        .iter()
        .all(|group| group.pages_per_second == 0)
    {
        sleep_for_ever(&mut code);
    } else {
        dirty(&mut code, &variables);
    }
    emit_tables(&mut code, &tables);
    code.bind(end);
    code.finish()
}

/// The multiboot header, with the addresses that spare the loader an ELF file.
fn header(code: &mut Emitter, entry: Label, end: Label) {
    const MAGIC: u32 = 0x1BAD_B002;
    const ADDRESSES_ARE_VALID: u32 = 1 << 16;
    code.word(MAGIC);
    code.word(ADDRESSES_ARE_VALID);
    code.word(0_u32.wrapping_sub(MAGIC.wrapping_add(ADDRESSES_ARE_VALID)));
    code.word(ORIGIN);
    code.word(ORIGIN);
    code.address_of(end);
    code.address_of(end);
    code.address_of(entry);
}

fn variables(code: &mut Emitter, parameters: &Parameters) -> Variables {
    let mut variable = |value: u32| {
        let address = code.here();
        code.word(value);
        address
    };
    let variables = Variables {
        fill_words: variable(parameters.fill_bytes / 4),
        seed: variable(parameters.seed),
        last: variable(0),
        elapsed: variable(0),
        written: variable(0),
        groups: 0,
    };
    let groups = code.here();
    let idle = Group {
        first_page: 0,
        pages: 1,
        pages_per_second: 0,
        order: Order::Uniform,
    };
    let padded = parameters
        .groups
        .iter()
        .copied()
        .chain(std::iter::repeat(idle));
    for group in padded.take(GROUPS) {
        code.word(group.first_page);
        code.word(group.pages);
        code.word(group.pages_per_second);
        code.word(group.order as u32);
        code.word(0);
        code.word(0);
    }
    Variables {
        groups,
        ..variables
    }
}

/// Own descriptor tables: the loader's are not there any more when an interrupt returns.
fn processor(code: &mut Emitter, tables: &Tables) {
    code.cli();
    code.lgdt(tables.gdtr);
    code.jmp_far(CODE, tables.flat);
    code.bind(tables.flat);
    code.mov_const(Reg::Eax, u32::from(DATA));
    code.mov_data_segments();
    code.mov_const(Reg::Esp, STACK);
    code.lidt(tables.idtr);
}

/// Moves the interrupts away from the exceptions, lets only the timer in and starts it.
fn timer(code: &mut Emitter) {
    let steps: [(u8, u8); 10] = [
        (0x20, 0x11),
        (0xA0, 0x11),
        (0x21, TIMER_VECTOR),
        (0xA1, TIMER_VECTOR + 8),
        (0x21, 4),
        (0xA1, 2),
        (0x21, 1),
        (0xA1, 1),
        (0x21, 0xFE),
        (0xA1, 0xFF),
    ];
    for (port, value) in steps {
        code.out_const(port, value);
    }
    let [low, high] = TICK_DIVISOR.to_le_bytes();
    code.out_const(0x43, 0x34);
    code.out_const(0x40, low);
    code.out_const(0x40, high);
}

/// Steps the generator in `eax`.
fn next_random(code: &mut Emitter) {
    code.imul_const(Reg::Eax, LCG_FACTOR);
    code.add_const(Reg::Eax, LCG_STEP);
}

fn fill(code: &mut Emitter, variables: &Variables) {
    let next = code.label();
    let done = code.label();
    code.mov_const(Reg::Edi, AREA);
    code.load(Reg::Ecx, Mem::At(variables.fill_words));
    code.load(Reg::Eax, Mem::At(variables.seed));
    code.test(Reg::Ecx);
    code.jump(When::Zero, done);
    code.bind(next);
    next_random(code);
    code.store(Mem::Off(Reg::Edi, 0), Reg::Eax);
    code.add_const(Reg::Edi, 4);
    code.dec(Reg::Ecx);
    code.jump(When::NotZero, next);
    code.bind(done);
    code.store(Mem::At(variables.seed), Reg::Eax);
}

fn announce(code: &mut Emitter, text: Label) {
    let next = code.label();
    let wait = code.label();
    let done = code.label();
    code.mov_label(Reg::Esi, text);
    code.bind(next);
    code.load_al(Mem::Off(Reg::Esi, 0));
    code.test_al(0xFF);
    code.jump(When::Zero, done);
    code.mov_const(Reg::Edx, SERIAL_STATUS);
    code.bind(wait);
    code.in_al();
    code.test_al(SERIAL_READY);
    code.jump(When::Zero, wait);
    code.load_al(Mem::Off(Reg::Esi, 0));
    code.mov_const(Reg::Edx, SERIAL_DATA);
    code.out_al();
    code.inc(Reg::Esi);
    code.jmp(next);
    code.bind(done);
}

/// With interrupts off, so that an idle guest touches not even its own stack.
fn sleep_for_ever(code: &mut Emitter) {
    let again = code.label();
    code.bind(again);
    code.cli();
    code.hlt();
    code.jmp(again);
}

fn dirty(code: &mut Emitter, variables: &Variables) {
    let tick = code.label();
    let group = code.label();
    let next_group = code.label();
    code.mov_const(Reg::Edx, PM_TIMER_PORT);
    code.in_eax();
    code.store(Mem::At(variables.last), Reg::Eax);
    code.bind(tick);
    code.sti();
    code.hlt();
    elapsed(code, variables);
    code.mov_const(Reg::Esi, variables.groups);
    code.mov_const(Reg::Ebp, u32::try_from(GROUPS).unwrap_or(0));
    code.bind(group);
    due(code, variables);
    code.test(Reg::Ecx);
    code.jump(When::Zero, next_group);
    write_pages(code, variables);
    code.bind(next_group);
    code.add_const(Reg::Esi, GROUP_BYTES);
    code.dec(Reg::Ebp);
    code.jump(When::NotZero, group);
    code.jmp(tick);
}

/// Leaves the time since the last tick, bounded, in its variable.
fn elapsed(code: &mut Emitter, variables: &Variables) {
    let bounded = code.label();
    code.mov_const(Reg::Edx, PM_TIMER_PORT);
    code.in_eax();
    code.mov(Reg::Ebx, Reg::Eax);
    code.sub(Reg::Eax, Mem::At(variables.last));
    code.and_const(Reg::Eax, PM_TIMER_MASK);
    code.store(Mem::At(variables.last), Reg::Ebx);
    code.cmp_const(Reg::Eax, CATCH_UP);
    code.jump(When::NotAbove, bounded);
    code.mov_const(Reg::Eax, CATCH_UP);
    code.bind(bounded);
    code.store(Mem::At(variables.elapsed), Reg::Eax);
}

/// Leaves the pages due of the group at `esi` in `ecx`, and keeps the fraction for next time.
fn due(code: &mut Emitter, variables: &Variables) {
    code.load(Reg::Eax, Mem::At(variables.elapsed));
    code.mul(Mem::Off(Reg::Esi, RATE));
    code.add(Reg::Eax, Mem::Off(Reg::Esi, REST));
    code.adc_const(Reg::Edx, 0);
    code.mov_const(Reg::Ecx, PM_TIMER_HZ);
    code.div(Reg::Ecx);
    code.store(Mem::Off(Reg::Esi, REST), Reg::Edx);
    code.mov(Reg::Ecx, Reg::Eax);
}

/// Writes `ecx` pages of the group at `esi`, a fresh random word into each, and counts them.
fn write_pages(code: &mut Emitter, variables: &Variables) {
    let next = code.label();
    let cyclic = code.label();
    let no_wrap = code.label();
    let write = code.label();
    code.push(Reg::Ecx);
    code.bind(next);
    code.load(Reg::Eax, Mem::At(variables.seed));
    next_random(code);
    code.store(Mem::At(variables.seed), Reg::Eax);
    code.mov(Reg::Ebx, Reg::Eax);
    code.load(Reg::Edx, Mem::Off(Reg::Esi, ORDER));
    code.test(Reg::Edx);
    code.jump(When::NotZero, cyclic);
    code.mul(Mem::Off(Reg::Esi, PAGES));
    code.jmp(write);
    code.bind(cyclic);
    code.load(Reg::Edx, Mem::Off(Reg::Esi, CURSOR));
    code.mov(Reg::Eax, Reg::Edx);
    code.inc(Reg::Eax);
    code.cmp(Reg::Eax, Mem::Off(Reg::Esi, PAGES));
    code.jump(When::Below, no_wrap);
    code.mov_const(Reg::Eax, 0);
    code.bind(no_wrap);
    code.store(Mem::Off(Reg::Esi, CURSOR), Reg::Eax);
    code.bind(write);
    code.add(Reg::Edx, Mem::Off(Reg::Esi, FIRST));
    code.shl(Reg::Edx, PAGE_BITS);
    code.store(Mem::Off(Reg::Edx, AREA), Reg::Ebx);
    code.dec(Reg::Ecx);
    code.jump(When::NotZero, next);
    code.pop(Reg::Eax);
    code.add(Reg::Eax, Mem::At(variables.written));
    code.store(Mem::At(variables.written), Reg::Eax);
}

/// The interrupt routine, which only thanks the controller, and the descriptor tables.
fn emit_tables(code: &mut Emitter, tables: &Tables) {
    let isr_address = code.here();
    code.push(Reg::Eax);
    code.out_const(0x20, 0x20);
    code.pop(Reg::Eax);
    code.iret();

    code.bind(tables.text);
    code.raw(FILLED.as_bytes());
    code.raw(b"\r\n\0");

    let gdt = code.here();
    code.raw(&[0; 8]);
    code.raw(&[0xFF, 0xFF, 0, 0, 0, 0x9A, 0xCF, 0]);
    code.raw(&[0xFF, 0xFF, 0, 0, 0, 0x92, 0xCF, 0]);
    code.bind(tables.gdtr);
    code.raw(&[3 * 8 - 1, 0]);
    code.word(gdt);

    let idt = code.here();
    let [low, high, upper, top] = isr_address.to_le_bytes();
    for _ in 0..VECTORS {
        code.raw(&[low, high, CODE, 0, 0, 0x8E, upper, top]);
    }
    code.bind(tables.idtr);
    let [limit_low, limit_high] = u16::try_from(VECTORS * 8 - 1).unwrap_or(0).to_le_bytes();
    code.raw(&[limit_low, limit_high]);
    code.word(idt);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word_at(image: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_loader_finds_a_multiboot_header_whose_words_sum_to_zero() {
        let image = image(&Parameters {
            fill_bytes: 0,
            seed: 1,
            groups: vec![],
        });
        let sum = word_at(&image, 0)
            .wrapping_add(word_at(&image, 4))
            .wrapping_add(word_at(&image, 8));
        assert_eq!(sum, 0);
        assert_eq!(word_at(&image, 0), 0x1BAD_B002);
        let end = ORIGIN + u32::try_from(image.len()).unwrap();
        assert_eq!(
            word_at(&image, 20),
            end,
            "the loader copies the whole image"
        );
        let entry = word_at(&image, 28);
        assert_eq!(
            image[usize::try_from(entry - ORIGIN).unwrap()],
            0xFA,
            "starts with cli"
        );
    }

    #[test]
    fn the_count_of_written_pages_is_where_it_is_looked_for() {
        let mut code = Emitter::new(ORIGIN);
        let (entry, end) = (code.label(), code.label());
        header(&mut code, entry, end);
        let parameters = Parameters {
            fill_bytes: 0,
            seed: 1,
            groups: vec![],
        };
        assert_eq!(variables(&mut code, &parameters).written, WRITTEN);
    }

    #[test]
    fn the_image_ends_below_the_memory_it_fills() {
        let group = Group {
            first_page: 0,
            pages: 1,
            pages_per_second: 1,
            order: Order::Cyclic,
        };
        let image = image(&Parameters {
            fill_bytes: 4096,
            seed: 1,
            groups: vec![group; GROUPS],
        });
        assert!(ORIGIN + u32::try_from(image.len()).unwrap() <= AREA);
    }
}
