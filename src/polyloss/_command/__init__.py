"""The command line: `app` has the commands and their options.

`tables` and `arrays` read files, `table_scores` and `array_scores` score them; `scoring` is what both have in common, `report` what is
printed, `problems` what goes wrong.
"""
