// The chat server with which chat_app is compared, as a team writes it in an afternoon. Every message is in PostgreSQL
// before it is delivered and acknowledged.
import { createServer } from "node:http";
import pg from "pg";
import { Server } from "socket.io";

const pool = new pg.Pool({ max: 10 });
const http = createServer();
const io = new Server(http, { transports: ["websocket"] });

const CHATS = { name: "chats", text: "SELECT chat_id FROM members WHERE user_id = $1" };
const INSERT = {
  name: "insert",
  text: "INSERT INTO messages (chat_id, sender_id, text) VALUES ($1, $2, $3) RETURNING id, sent_at",
};

io.use(async (socket, next) => {
  try {
    socket.data.userId = socket.handshake.auth.user_id;
    const { rows } = await pool.query({ ...CHATS, values: [socket.data.userId] });
    socket.join(rows.map((row) => row.chat_id));
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  socket.on("send_message", async ({ chat_id, text }, answer) => {
    if (!socket.rooms.has(chat_id) || typeof text !== "string" || !text) return answer({ ok: false });
    try {
      const { rows } = await pool.query({ ...INSERT, values: [chat_id, socket.data.userId, text] });
      const message = { ...rows[0], chat_id, sender_id: socket.data.userId, text };
      socket.to(chat_id).emit("message", message);
      answer({ ok: true, id: message.id, sent_at: message.sent_at });
    } catch (error) {
      console.error(error);
      answer({ ok: false });
    }
  });
});

http.listen(Number(process.env.PORT), "127.0.0.1", 4096);
