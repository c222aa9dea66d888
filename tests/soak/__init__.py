"""A run whose processes are killed all the time, and an audit of what it promised.

    tap (in the actors) → ledger (files) ─┐
    storage file → stored (own reader) ───┴→ audit        kills → times, scores, resources → report

`python -m tests.soak --minutes 20 --kill all --seed 1`
"""
