"""What everything else rests on: losses as blocks of formulas, checks of their parameters, array libraries, shapes, reductions, threads."""
