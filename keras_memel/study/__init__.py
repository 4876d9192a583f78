"""The runs of a study, and what they show.

    runs         a file of them, from which a study goes on after a stop
    contrasts    two arms, seed by seed: interval, test, verdict
    showing      tables and a picture of them
    comparison   all of them

`evidence.py` makes the runs.
"""
