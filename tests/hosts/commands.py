"""What the worker serves beside the commands of the survival tests, and what a load asks for."""

from survival.commands import AT_MOST_ONCE, ECHO, PUSH_BACK, QUERY, STRICT

LONG = 4  # takes LONG_S, so that many are in hand whenever a cable is pulled; at-most-once and strict like ECHO
LONG_S = 0.3
PUSH_LOBBY = 51  # the body, to the group "lobby"
PUSHED_LOBBY = 52  # what is pushed then has this command

# Every second packet is a long one.
NORMAL = [ECHO, LONG, QUERY, LONG, PUSH_BACK, LONG]
ONCE = [AT_MOST_ONCE + each for each in (ECHO, LONG, QUERY, LONG)]
ONE_AT_A_TIME = [STRICT + each for each in (ECHO, LONG, QUERY, LONG)]
EVERY_KIND = [NORMAL, ONCE, ONE_AT_A_TIME, ONCE]
