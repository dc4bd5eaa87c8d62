//! The cores in fixed rounds, for callgrind to count: `instructions NAME ROUNDS`. `benches/instructions` runs it, compares
//! with what stands in `benches/instructions.baseline`, and is what CI guards.

mod scenarios;

use scenarios::SCENARIOS;

fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let (Some(name), Some(rounds)) = (words.next(), words.next().and_then(|rounds| rounds.parse().ok())) else {
        // Whoever runs all benches wants the names; whoever counts names one.
        for (name, _) in SCENARIOS {
            println!("{name}");
        }
        return;
    };
    let Some((_, scenario)) = SCENARIOS.iter().find(|(known, _)| *known == name) else {
        panic!("no such scenario: {name}");
    };
    scenario(rounds);
}
