/**
 * The numbers of the NBD protocol, for the server and for the client alike.
 *
 * Source: NetworkBlockDevice/nbd, doc/proto.md, section "Values".
 *
 * @module
 */

/** The words that begin a message, in halves of 32 bits where they have 64. */
export const Magic = {
  /** `NBDMAGIC`, the first word of a server. */
  Init: [0x4e42444d, 0x41474943],
  /** `IHAVEOPT`, the second one, and that of every option. */
  Option: [0x49484156, 0x454f5054],
  /** The answer to an option. */
  OptionReply: [0x0003e889, 0x045565a9],
  /** A request. */
  Request: 0x25609513,
  /** A reply of one piece. */
  SimpleReply: 0x67446698,
  /** A chunk of a reply of several. */
  Chunk: 0x668e33ef,
} as const;

/** The port that IANA gave to NBD. */
export const NBD_PORT = 10_809;

/** Bytes that a string may have. */
export const MAX_STRING_BYTES = 4096;

/** What a server says of the handshake. */
export const HandshakeFlag = {
  /** The handshake is of the fixed newstyle. */
  FixedNewstyle: 1,
  /** There need not be 124 zeroes at its end. */
  NoZeroes: 2,
} as const;

/** Options that a client may negotiate. */
export const Option = {
  /** Takes an export; the old way. */
  ExportName: 1,
  /** Gives up. */
  Abort: 2,
  /** Which exports are there? */
  List: 3,
  /** Goes on with TLS. */
  StartTls: 5,
  /** What is that export? */
  Info: 6,
  /** Takes an export. */
  Go: 7,
  /** Replies may come in chunks. */
  StructuredReply: 8,
  /** Which metadata is there? */
  ListMetaContext: 9,
  /** Chooses metadata. */
  SetMetaContext: 10,
} as const;

/** Answers to options. */
export const OptionReply = {
  /** Done. */
  Ack: 1,
  /** An export. */
  Server: 2,
  /** Something about an export. */
  Info: 3,
  /** A kind of metadata. */
  MetaContext: 4,
  /** There is no such option here. */
  ErrUnsupported: 0x8000_0001,
  /** Not permitted. */
  ErrPolicy: 0x8000_0002,
  /** Malformed. */
  ErrInvalid: 0x8000_0003,
  /** Not to be had on the server's platform. */
  ErrPlatform: 0x8000_0004,
  /** Not without TLS. */
  ErrTlsRequired: 0x8000_0005,
  /** There is no such export. */
  ErrUnknown: 0x8000_0006,
  /** The server is stopping. */
  ErrShutdown: 0x8000_0007,
  /** Not without asking for block sizes. */
  ErrBlockSizeRequired: 0x8000_0008,
  /** More than the server takes. */
  ErrTooBig: 0x8000_0009,
  /** Not without extended headers. */
  ErrExtendedHeadersRequired: 0x8000_000a,
} as const;

/** What can be told about an export. */
export const Info = {
  /** Size and flags. */
  Export: 0,
  /** Its name. */
  Name: 1,
  /** A line about it. */
  Description: 2,
  /** What requests must be multiples of. */
  BlockSize: 3,
} as const;

/** What an export can do. */
export const ExportFlag = {
  /** Always set. */
  HasFlags: 1 << 0,
  /** Writes are refused. */
  ReadOnly: 1 << 1,
  /** Takes FLUSH. */
  SendFlush: 1 << 2,
  /** Takes the flag FUA. */
  SendFua: 1 << 3,
  /** Takes TRIM. */
  SendTrim: 1 << 5,
  /** Takes WRITE_ZEROES. */
  SendWriteZeroes: 1 << 6,
  /** Takes the flag DF. */
  SendDf: 1 << 7,
  /** A flush on one connection covers all of them. */
  CanMultiConn: 1 << 8,
  /** Takes CACHE. */
  SendCache: 1 << 10,
  /** Takes the flag FAST_ZERO. */
  SendFastZero: 1 << 11,
} as const;

/** What a request asks for. */
export const Command = {
  /** Read bytes. */
  Read: 0,
  /** Write bytes. */
  Write: 1,
  /** The client leaves; not answered. */
  Disconnect: 2,
  /** Make every write that was answered durable. */
  Flush: 3,
  /** The content is not needed any more. */
  Trim: 4,
  /** It will be read soon. */
  Cache: 5,
  /** Make it read as zeroes. */
  WriteZeroes: 6,
  /** Where is data, where are holes? */
  BlockStatus: 7,
} as const;

/** Flags of a request. */
export const CommandFlag = {
  /** Durable when it is answered. */
  Fua: 1 << 0,
  /** Zeroes must not become a hole. */
  NoHole: 1 << 1,
  /** The content must come in one chunk. */
  DontFragment: 1 << 2,
  /** One extent is enough. */
  RequestOne: 1 << 3,
  /** Zeroes only if that is faster than writing them. */
  FastZero: 1 << 4,
} as const;

/** Kinds of chunks. */
export const ChunkType = {
  /** Nothing more. */
  None: 0,
  /** A piece of data. */
  OffsetData: 1,
  /** A piece of zeroes. */
  OffsetHole: 2,
  /** Extents. */
  BlockStatus: 5,
  /** It failed. */
  Error: 0x8001,
  /** It failed there. */
  ErrorOffset: 0x8002,
} as const;

/** Set in the type of chunks that say that it failed. */
export const CHUNK_ERROR = 0x8000;

/** The flag of the last chunk. */
export const CHUNK_DONE = 1;

/** Flags of an extent in the metadata `base:allocation`. */
export const Allocation = {
  /** Nothing is stored there. */
  Hole: 1,
  /** Reads as zeroes. */
  Zero: 2,
} as const;

/** The metadata that tells data from holes. */
export const BASE_ALLOCATION = "base:allocation";

/** Error numbers, the same on every system. */
export const WireError = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** Bytes of a request without its payload. */
export const REQUEST_BYTES = 28;

/** Bytes of a simple reply without its payload. */
export const SIMPLE_REPLY_BYTES = 16;

/** Bytes of a chunk without its payload. */
export const CHUNK_BYTES = 20;

/** Bytes before the data of an option. */
export const OPTION_BYTES = 16;

/** Bytes before the data of an answer to one. */
export const OPTION_REPLY_BYTES = 20;
