//! Every combination of acts, and what is claimed of it.

use super::acts::{Act, Start, play};
use super::explorer::{Explored, Profile};

/// Lists every combination of so many of these acts; each may be there more than once.
pub(super) fn combinations(of: &[Act], threads: usize) -> Vec<Vec<Act>> {
    let mut all = vec![Vec::new()];
    for _ in 0..threads {
        let longer = |acts: Vec<Act>| {
            let least = acts.last().map_or(0, |&last| last as usize);
            let more = of[least..].iter().map(move |&act| [acts.as_slice(), &[act]].concat());
            more.collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// Explores a combination, from each of these starts, and tells what has come of it.
pub(super) fn prove(acts: &[Act], starts: &[Start], profile: Profile) -> Explored {
    let claim = claim(acts);
    let mut sum = Explored::default();
    for &start in starts {
        let acts = acts.to_vec();
        sum.add(profile.explore(&format!("{claim} ({start:?})"), move || play(&acts, start)));
    }
    println!("{claim}: {}", sum.told(profile));
    sum
}

/// Says what is claimed of a combination.
fn claim(acts: &[Act]) -> String {
    let mut each = Vec::new();
    for act in Act::ALL {
        let (one, many) = act.words();
        match acts.iter().filter(|&&other| other == act).count() {
            0 => {}
            1 => each.push(one.to_owned()),
            2 => each.push(format!("two {many}")),
            _ => each.push(format!("three {many}")),
        }
    }
    let who = match each.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    };
    let has = |act| acts.contains(&act);
    let what = match (has(Act::Close), has(Act::Resize)) {
        (true, _) => "leave nothing open and no caller waiting",
        (false, true) => "keep to the limit, lose no slot and leave no caller waiting",
        (false, false) => "lose no slot and leave no caller waiting",
    };
    format!("{who} {what}")
}
