"""The command line: `app` has the commands and their options.

`tables` and `arrays` read files, `table_scores`, `labelled_tables` and `array_scores` score them; `scoring` is what these have in common,
`values` knows what numbers a loss takes, `report` what is printed, `problems` what goes wrong.
"""
