"""The conformance kit: plays the gateway against a worker of any language, and says whether it keeps the contract.

kit.py finds out what the worker is and runs the checks one by one, which are in link_checks.py, cancel_checks.py,
handle_checks.py and leave_checks.py; played.py is the gateway's end of a link; program.py is the worker's process;
report.py tells.
"""
