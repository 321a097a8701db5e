import asyncio, random
from tests.clients import HttpDoor, SocketDoor
from tests.observers import Observer, check_equal, read_anew
from uuid import uuid4

async def test_mine_order(make_person, openapi):
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
    http = HttpDoor(openapi)
    chat = await http.do(anna, "open_private_chat", user_id=boris.id)
    o = await Observer(anna, await anna.connect(active_chat_id=None)).start(chat["id"])
    bad = 0
    for n in range(150):
        await http.send(boris, chat["id"])
        ops = [http.call(anna, "mark_read", chat_id=chat["id"], seq=10**6), http.send(anna, chat["id"]),
               http.call(anna, random.choice(["pin_chat","unpin_chat"]), chat_id=chat["id"]), http.send(anna, chat["id"]),http.send(boris, chat["id"]),
               http.call(anna, "rename_chat", chat_id=chat["id"], title=random.choice(["a","b"]))]
        random.shuffle(ops)
        await asyncio.gather(*ops)
        await o.settle()
        try:
            fresh = await read_anew(o.socket, anna.id, chat["id"])
            check_equal("x", o.model, fresh)
        except AssertionError as e:
            bad += 1
            print(n, e)
            o.model = fresh
    assert not bad, bad
