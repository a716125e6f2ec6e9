"""The paper's tables and figures as sets of experiments: `python -m pdiff.paper 3c`.

`python -m pdiff.paper verdict` holds its claims against several seeds.

definitions   which experiments a table consists of, and what the paper says
experiments   parameters of an experiment, and where its results lie
runner        run what is missing, through DVC or as plain stages
estimate      how long that will take, from measured stages
render        results to CSV, Markdown and figures
complete      say what would run, run what is missing
runs, claims  what a verdict gathers, and the differences that it is about
verdict       which claims hold, over runs or pipelines; verdict_text and copies write it down
"""
