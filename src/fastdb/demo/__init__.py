"""`fastdb demo`: a real app in a process of its own, driven over HTTP, and what became of its data.

`app` is the app, to be copied. `run` starts it (`server`), sends it what `plan` says (`load`),
reads the tables back (`tables`), judges (`checks`) and tells (`report`).
"""
