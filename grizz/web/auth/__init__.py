"""Who is it, and may this page talk to us.

door.py          what the rest of the web side asks: who is it, is it still, where from
identity.py      the answer
credentials.py   where in a request it stands who sends it
keys.py          API keys
tokens.py        JWT; key_sets.py the public keys that sign them
tickets.py       one WebSocket for who can send neither header nor cookie nor first message
sessions.py      the three routes of browsers: sign in, sign out, get a ticket
places.py        Origin, Host, addresses behind proxies
"""

from grizz.web.auth.door import LOCAL, Door
from grizz.web.auth.identity import Identity

__all__ = ["LOCAL", "Door", "Identity"]
