"""The paper's tables and figures as sets of experiments: `python -m pdiff.paper 3c`.

`python -m pdiff.paper verdict` holds its claims against several seeds.

tables.yaml   the experiments of each table, and what the paper says; definitions reads it
experiments   parameters of an experiment, and where its results lie
complete      say what would run, run what is missing; runner queues it in DVC
render        results to CSV, Markdown and, with figures, pictures
memory        Table 13, which needs no experiment
runs, claims  what a verdict gathers, and the differences that it is about
verdict       which claims hold, over runs or pipelines; verdict_text and copies write it down
"""
