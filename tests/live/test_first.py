"""first"""
async def test_both_doors(door, make_person):
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
    chat = await door.do(anna, "open_private_chat", user_id=boris.id)
    await door.send(anna, chat["id"], "hi")
    page = await door.do(boris, "list_messages", chat_id=chat["id"])
    assert [m["text"] for m in page["items"]] == ["hi"]
