"""What the worker serves beside the commands of the survival tests, and what a load asks for."""

from survival.commands import AT_MOST_ONCE, ECHO, NORMAL, PUSH_BACK, QUERY, STRICT

PUSH_LOBBY = 51  # the body, to the group "lobby"
PUSHED_LOBBY = 52  # what is pushed then has this command

ONCE = [AT_MOST_ONCE + ECHO, AT_MOST_ONCE + QUERY]
ONE_AT_A_TIME = [STRICT + ECHO, STRICT + QUERY]
EVERY_KIND = [*NORMAL, [ECHO, PUSH_BACK, QUERY], ONCE, ONE_AT_A_TIME]
