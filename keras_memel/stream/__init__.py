"""From inputs of any number to what a report holds, in bounded memory.

    sources      batches and labels, from whatever they come
    streams      the values of one layer, as rows: a column a neuron
    accumulate   sums and extremes, on the way
    spool        the values themselves, aside, in memory and on disk
    figures      what takes them in order: quantiles, curves, histograms

`analysis.py` lets them flow; `neurons.py` is what comes out.
"""
