"""The command line: `app` has the commands and their options.

Of tables, from below: `text_lines` and `table_formats` know their files, `broken_text` says what is wrong with one, `table_reading` reads
them, `truth` and `prediction_files` are the two sides, which `join_by_id` joins; `spelling` is how ids and labels are written. `arrays`
reads arrays. `table_scores`, `self_labelled_tables` and `array_scores` score them; `scoring` is what these have in common, `values` knows
what numbers a loss takes, `report` what is printed, `problems` what goes wrong, `names` which files are meant, `streams` keeps
what pipes hold.
"""
