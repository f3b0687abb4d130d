"""The commands that the tests' worker serves."""

ECHO = 1
QUERY = 2  # takes some milliseconds
PUSH_BACK = 3  # pushes the session's secret to it
# Added to ECHO and QUERY, these are routed so; ROUTES says it to the gateway.
AT_MOST_ONCE, STRICT, UNORDERED = 10, 20, 30
BIND, JOIN = 41, 42  # the session, to the user or group in the body
FLOOD = 43  # pushes to the session, as often as the body says
SLOW = 44  # answers after as many seconds as the body says
BURST = 48  # pushes to a group: its name, the first number, how many, bytes of each
FLOOD_GROUP = 90  # of the flooder's service: as BURST, always from 0
BIG = 49  # answers with as many bytes as the body says
GUARDED = 45  # like a data base that does so many queries at once, and no more
POISON = 66  # ends the worker
BLOCK = 67  # blocks the worker for good
PUSHED = 5  # what is pushed has this command

POISONED = 66  # exit code of a poisoned worker

NORMAL = [[ECHO, QUERY, QUERY, PUSH_BACK]]  # what a load sends if nothing else is said

ROUTES = """
[[route]]
commands = "10-19"
delivery = "at-most-once"

[[route]]
commands = "20-29"
order = "strict"

[[route]]
commands = "30-39"
order = "none"
"""
