"""A bank under faults: money is moved through a real server while what it stands on breaks.

    python -m bank --seconds 300 --seed 7 --database postgresql-asyncpg

`app` is what is under test, `plan` says what breaks and when, `place` breaks it, `clients` move
money and note what they were told, `judge` compares that with the books, `report` writes it down.
"""
