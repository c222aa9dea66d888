"""A page that shows runs, live and afterwards (docs/adr/0018).

    command.py      the command line
    options.py      what it is told, and whether it can be served so
    server.py       serves it until Ctrl-C
    beside.py       the same in a process beside a launch
    guard.py        who may see the page
    catalogue.py    the runs of a directory, each in a row
    following.py    metrics.jsonl while it grows
    observatory.py  everything known of the runs that somebody looks at
    flows.py        counters → rates and waiting times
    ladder.py       ε against returns
    difference.py   two configurations
    drawing.py      the topology, as SVG
    numbers.py      as people read them
    charts.py       curves and histograms, as options of ECharts
    panels.py       text and tables of the page
    page.py         the page

Only server.py and page.py know the library that makes pages; the rest is plain data.
"""
