"""The runs of a study, and what they show.

    runs         a file of them, from which a study goes on after a stop
    contrasts    two arms, seed by seed: interval, test, verdict
    comparison   all of them: tables and a picture

`evidence.py` makes the runs.
"""
