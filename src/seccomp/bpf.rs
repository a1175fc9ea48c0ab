//! From a policy (ranges of system call numbers, and what a call in them gets) to a program for the kernel.
//!
//! Mechanism: classic BPF as seccomp(2) takes it: it sees a struct seccomp_data (number, architecture, instruction
//! pointer, six arguments), jumps only forward, and ends by returning an action. Kernel:
//! Documentation/userspace-api/seccomp_filter.rst, Documentation/networking/filter.rst.
//!
//! Entry: [`assemble`]. The numbers are searched by a balanced tree of comparisons, so that a call passes about seven
//! of them and not a hundred; what arguments are compared with comes last. The program is made from its end to its
//! beginning: the target of a jump is there before the jump is, and how far it is needs no second pass. A label is
//! the number of instructions from its target to the end.
//!
//! Left out: any use of the memory and the index register; big-endian machines (the lower half of an argument is
//! taken to come first).

use container::sys::Instruction;
use linux_raw_sys::{if_tun as bpf, ptrace as raw};

use super::calls::MACHINE;

/// The most instructions the kernel takes in one program.
pub const LIMIT: usize = bpf::BPF_MAXINSNS as usize;

/// What a call gets (`SECCOMP_RET_*`): the action of the first test that holds, else the last one.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub tests: Vec<Test>,
    pub otherwise: u32,
}

impl From<u32> for Outcome {
    fn from(otherwise: u32) -> Outcome {
        let tests = Vec::new();
        Outcome { tests, otherwise }
    }
}

/// A comparison of one argument, all 64 bits of it, with a value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Test {
    /// 0 to 5.
    pub argument: u8,
    /// Applied to the argument first; all ones except for [`Comparison::Equal`].
    pub mask: u64,
    pub comparison: Comparison,
    /// Has no bits that the mask has not.
    pub value: u64,
    /// Holds if the comparison does not.
    pub negated: bool,
    /// `None` if the next test has to hold, too.
    pub action: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Comparison {
    Equal,
    Greater,
    #[cfg_attr(not(feature = "json"), allow(dead_code))]
    GreaterOrEqual,
}

/// What every call of a process gets.
pub struct Policy {
    /// The action for calls of other architectures than this one.
    foreign: u32,
    /// By first number; a range ends where the next begins, the last one never.
    ranges: Vec<(u32, Outcome)>,
}

impl Policy {
    pub fn new(foreign: u32) -> Policy {
        let ranges = Vec::with_capacity(128);
        Policy { foreign, ranges }
    }

    /// From this number on calls get this. Numbers have to come in ascending order, the first is 0.
    pub fn from(&mut self, number: u32, outcome: Outcome) {
        if self.ranges.last().is_none_or(|(_, last)| *last != outcome) {
            self.ranges.push((number, outcome));
        }
    }
}

/// The program, however long it is.
pub fn assemble(policy: &Policy) -> Vec<Instruction> {
    let mut program = Program::default();
    let tree = program.tree(&policy.ranges);
    program.fall_to(tree);
    let number = program.emit(LOAD, NUMBER, [0, 0]);
    let foreign = program.action(policy.foreign);
    program.branch(bpf::BPF_JEQ, MACHINE.audit, number, foreign);
    program.emit(LOAD, ARCHITECTURE, [0, 0]);
    program.reversed.reverse();
    program.reversed
}

/// What an instruction returns, if it is one that does.
pub fn action(instruction: &mut Instruction) -> Option<&mut u32> {
    (u32::from(instruction.code) == RETURN).then_some(&mut instruction.k)
}

// Offsets in struct seccomp_data (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u32 = bpf::BPF_LD | bpf::BPF_W | bpf::BPF_ABS;
const AND: u32 = bpf::BPF_ALU | bpf::BPF_AND | bpf::BPF_K;
const RETURN: u32 = bpf::BPF_RET | bpf::BPF_K;
const JUMP: u32 = bpf::BPF_JMP | bpf::BPF_JA;

/// A conditional jump skips at most 255 instructions; one is kept for the other branch's [`JUMP`].
const FAR: usize = 254;

type Label = usize;

#[derive(Default)]
struct Program {
    reversed: Vec<Instruction>,
    /// Where each action was returned last.
    returns: Vec<(u32, Label)>,
}

impl Program {
    fn emit(&mut self, code: u32, k: u32, [jt, jf]: [usize; 2]) -> Label {
        let (code, jt, jf) = (code as u16, jt as u8, jf as u8);
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len()
    }

    /// How many instructions lie between the next one emitted and this one.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label
    }

    /// Makes the last instruction emitted lead to this one.
    fn fall_to(&mut self, label: Label) {
        if self.distance(label) != 0 {
            self.emit(JUMP, self.distance(label) as u32, [0, 0]);
        }
    }

    /// A place within reach of a conditional jump that leads there.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) <= FAR {
            return label;
        }
        self.fall_to(label);
        self.reversed.len()
    }

    /// Returns an action, where that is done already if it is near.
    fn action(&mut self, action: u32) -> Label {
        if let Some(index) = self.returns.iter().position(|(known, _)| *known == action) {
            let (_, label) = self.returns[index];
            if self.distance(label) < FAR / 2 {
                return label;
            }
            self.returns.swap_remove(index);
        }
        let label = self.emit(RETURN, action, [0, 0]);
        self.returns.push((action, label));
        label
    }

    /// Compares the accumulator.
    fn branch(&mut self, comparison: u32, k: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let distances = [self.distance(yes), self.distance(no)];
        self.emit(bpf::BPF_JMP | bpf::BPF_K | comparison, k, distances)
    }

    /// Finds the range that the number in the accumulator lies in. Halves the numbers rather than the ranges: the
    /// kernel tries every number when it loads a program, to know those that are always allowed.
    fn tree(&mut self, ranges: &[(u32, Outcome)]) -> Label {
        match ranges {
            [] => self.action(raw::SECCOMP_RET_KILL_PROCESS),
            [(_, outcome)] => self.outcome(outcome),
            // A single number is an exception to what is around it.
            [(_, around), (number, outcome), (next, after)]
                if next - number == 1 && around == after =>
            {
                let no = self.outcome(around);
                let yes = self.outcome(outcome);
                self.branch(bpf::BPF_JEQ, *number, yes, no)
            }
            [(first, _), .., (last, _)] => {
                let middle = first + (last - first) / 2;
                let distance = |index: &usize| ranges[*index].0.abs_diff(middle);
                let half = (1..ranges.len()).min_by_key(distance).unwrap_or(1);
                let (below, from) = ranges.split_at(half);
                let no = self.tree(below);
                let yes = self.tree(from);
                self.branch(bpf::BPF_JGE, from[0].0, yes, no)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Label {
        let mut start = self.action(outcome.otherwise);
        let mut no = start;
        for test in outcome.tests.iter().rev() {
            let yes = match test.action {
                Some(action) => {
                    no = start;
                    self.action(action)
                }
                None => start,
            };
            start = self.test(test, yes, no);
        }
        start
    }

    fn test(&mut self, test: &Test, yes: Label, no: Label) -> Label {
        let (yes, no) = if test.negated { (no, yes) } else { (yes, no) };
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let ((mask_high, mask_low), (high, low)) = (halves(test.mask), halves(test.value));
        let offset = ARGUMENTS + 8 * u32::from(test.argument);
        let comparison = match test.comparison {
            Comparison::Equal => bpf::BPF_JEQ,
            Comparison::Greater => bpf::BPF_JGT,
            Comparison::GreaterOrEqual => bpf::BPF_JGE,
        };
        let mut start = yes;
        if mask_low != 0 {
            self.branch(comparison, low, yes, no);
            start = self.load(offset, mask_low);
        }
        if mask_high != 0 {
            let equal = self.branch(bpf::BPF_JEQ, high, start, no);
            if test.comparison != Comparison::Equal {
                self.branch(bpf::BPF_JGT, high, yes, equal);
            }
            start = self.load(offset + 4, mask_high);
        }
        start
    }

    /// Loads 32 bits of an argument for the instruction emitted last.
    fn load(&mut self, offset: u32, mask: u32) -> Label {
        if mask != u32::MAX {
            self.emit(AND, mask, [0, 0]);
        }
        self.emit(LOAD, offset, [0, 0])
    }
}
