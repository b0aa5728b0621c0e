// A reader, a log and a witness on golang.org/x/mod/sumdb/{note,tlog}: code that is not ours.
//
//	tlog read URL VKEY [OLD CHECKPOINT]   reads every tile and entry, proves the first and last record
//	tlog log WITNESS VKEY                 grows a log of its own and has our witness cosign it
//	tlog witness LOGVKEY                  a test witness; prints its address and key, serves until killed
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if len(os.Args) < 3 {
		fail(errors.New("want a command"))
	}
	var err error
	switch os.Args[1] {
	case "read":
		err = read(os.Args[2], os.Args[3], os.Args[4:])
	case "log":
		err = grow(os.Args[2], os.Args[3])
	case "witness":
		err = witness(os.Args[2])
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func say(value any) {
	out, _ := json.Marshal(value)
	fmt.Println(string(out))
}

func get(url string) ([]byte, error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<25))
	if err == nil && answer.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return body, err
}

// head is a checkpoint: origin, size, root.
type head struct {
	origin string
	tree   tlog.Tree
}

func open(text []byte, vkey string) (head, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return head{}, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return head{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 {
		return head{}, errors.New("a checkpoint of too few lines")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return head{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return head{}, errors.New("a checkpoint without a root")
	}
	return head{lines[0], tlog.Tree{N: size, Hash: tlog.Hash(root)}}, nil
}

// path is where C2SP tlog-tiles puts a tile; kind is a level or "entries".
func path(kind string, n int64, width int) string {
	text := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		text = fmt.Sprintf("x%03d/%s", n%1000, text)
	}
	if width < 256 {
		text += fmt.Sprintf(".p/%d", width)
	}
	return "tile/" + kind + "/" + text
}

type tiles struct{ url string }

func (tiles) Height() int                     { return 8 }
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(list))
	for i, tile := range list {
		var err error
		if out[i], err = get(t.url + "/" + path(strconv.Itoa(tile.L), tile.N, tile.W)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func read(url, vkey string, old []string) error {
	text, err := get(url + "/checkpoint")
	if err != nil {
		return err
	}
	now, err := open(text, vkey)
	if err != nil {
		return err
	}
	reader := tlog.TileHashReader(now.tree, tiles{url})
	count := int64(0)
	for n := int64(0); n*256 < now.tree.N; n++ {
		width := min(256, now.tree.N-n*256)
		bundle, err := get(url + "/" + path("entries", n, int(width)))
		if err != nil {
			return err
		}
		indexes, found := []int64{}, []tlog.Hash{}
		for len(bundle) > 0 {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return errors.New("a bundle that is cut short")
			}
			length := int(binary.BigEndian.Uint16(bundle))
			found = append(found, tlog.RecordHash(bundle[2:2+length]))
			indexes = append(indexes, tlog.StoredHashIndex(0, count))
			bundle, count = bundle[2+length:], count+1
		}
		// TileHashReader checks every tile that it reads against the signed root.
		wanted, err := reader.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for i := range wanted {
			if wanted[i] != found[i] {
				return fmt.Errorf("entry %d is not the leaf of its tile", n*256+int64(i))
			}
		}
	}
	if count != now.tree.N {
		return fmt.Errorf("%d entries, the checkpoint covers %d", count, now.tree.N)
	}
	for _, index := range []int64{0, now.tree.N - 1} {
		proof, err := tlog.ProveRecord(now.tree.N, index, reader)
		if err != nil {
			return err
		}
		leaf, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(proof, now.tree.N, now.tree.Hash, index, leaf[0]); err != nil {
			return err
		}
	}
	for _, file := range old {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		before, err := open(text, vkey)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(now.tree.N, before.tree.N, reader)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, now.tree.N, now.tree.Hash, before.tree.N, before.tree.Hash); err != nil {
			return err
		}
	}
	say(map[string]any{"origin": now.origin, "size": now.tree.N, "root": now.tree.Hash.String()})
	return nil
}

// memory is a log in memory.
type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = m[index]
	}
	return out, nil
}

func (m *memory) add(record []byte, n int64) error {
	hashes, err := tlog.StoredHashes(n, record, *m)
	*m = append(*m, hashes...)
	return err
}

func add(url string, old int64, proof tlog.TreeProof, checkpoint []byte) (int, string, error) {
	var body bytes.Buffer
	fmt.Fprintf(&body, "old %d\n", old)
	for _, hash := range proof {
		fmt.Fprintf(&body, "%s\n", hash)
	}
	fmt.Fprintf(&body, "\n%s", checkpoint)
	answer, err := http.Post(url+"/add-checkpoint", "text/plain", &body)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	return answer.StatusCode, string(said), err
}

// grow has a witness of ours cosign the checkpoints of a log made here. The log's key comes on standard
// input as a note signer, so that the witness can know it beforehand.
func grow(url, witnessKey string) error {
	key, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(strings.TrimSpace(string(key)))
	if err != nil {
		return err
	}
	var log memory
	size, last := int64(0), int64(0)
	for _, more := range []int64{1, 1, 5, 250, 300} {
		for range more {
			if err := log.add([]byte(fmt.Sprintf("record %d", size)), size); err != nil {
				return err
			}
			size++
		}
		root, err := tlog.TreeHash(size, log)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, root)
		signed, err := note.Sign(&note.Note{Text: text}, signer)
		if err != nil {
			return err
		}
		proof := tlog.TreeProof{}
		if last > 0 {
			if proof, err = tlog.ProveTree(size, last, log); err != nil {
				return err
			}
		}
		status, said, err := add(url, last, proof, signed)
		if err != nil || status != 200 {
			return fmt.Errorf("size %d: %d %s %v", size, status, said, err)
		}
		cosigner, err := newCosignatureVerifier(witnessKey)
		if err != nil {
			return err
		}
		opened, err := note.Open([]byte(string(signed)+said), note.VerifierList(cosigner))
		if err != nil || len(opened.Sigs) != 1 {
			return fmt.Errorf("the cosignature: %v", err)
		}
		last = size
		// The same proof from another size is a conflict that tells the right one.
		if status, said, _ = add(url, last-1, proof, signed); size > 1 && (status != 409 || said != fmt.Sprintf("%d\n", last)) {
			return fmt.Errorf("a wrong old size: %d %q", status, said)
		}
	}
	// A fork: another record in the past.
	fork := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, tlog.RecordHash([]byte("other")))
	signed, err := note.Sign(&note.Note{Text: fork}, signer)
	if err != nil {
		return err
	}
	if status, said, _ := add(url, last, nil, signed); status != 422 {
		return fmt.Errorf("a fork: %d %q", status, said)
	}
	say(map[string]any{"cosigned": size, "fork": "refused"})
	return nil
}

// The cosignatures of C2SP tlog-cosignature: a time, and a signature over time and checkpoint.
const cosignature = 4

type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 72 {
		return false
	}
	return ed25519.Verify(c.key, message(binary.BigEndian.Uint64(sig), msg), sig[8:])
}

func message(at uint64, msg []byte) []byte {
	return append([]byte(fmt.Sprintf("cosignature/v1\ntime %d\n", at)), msg...)
}

func newCosignatureVerifier(vkey string) (note.Verifier, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("a witness key of another form")
	}
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != cosignature {
		return nil, errors.New("a witness key of another type")
	}
	return cosigner{parts[0], uint32(hash), ed25519.PublicKey(key[1:])}, nil
}

func witness(vkey string) error {
	const name = "go.witness.test/one"
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	raw := append([]byte{cosignature}, public...)
	hash := sum(name, raw)
	var lock sync.Mutex
	var last head
	var kept []byte
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", func(w http.ResponseWriter, r *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		top, text, found := bytes.Cut(body, []byte("\n\n"))
		if err != nil || !found {
			http.Error(w, "malformed", 400)
			return
		}
		lines := strings.Split(string(top), "\n")
		old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
		if err != nil {
			http.Error(w, "malformed", 400)
			return
		}
		now, err := open(text, vkey)
		if err != nil {
			http.Error(w, err.Error(), 403)
			return
		}
		if old != last.tree.N {
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(409)
			fmt.Fprintf(w, "%d\n", last.tree.N)
			return
		}
		var proof tlog.TreeProof
		for _, line := range lines[1:] {
			hash, err := tlog.ParseHash(line)
			if err != nil {
				http.Error(w, "malformed", 400)
				return
			}
			proof = append(proof, hash)
		}
		if old > 0 && tlog.CheckTree(proof, now.tree.N, now.tree.Hash, old, last.tree.Hash) != nil {
			http.Error(w, "not consistent", 422)
			return
		}
		opened, _ := note.Open(text, mustVerifier(vkey))
		at := uint64(time.Now().Unix())
		blob := binary.BigEndian.AppendUint32(nil, hash)
		blob = binary.BigEndian.AppendUint64(blob, at)
		blob = append(blob, ed25519.Sign(private, message(at, []byte(opened.Text)))...)
		line := fmt.Sprintf("\u2014 %s %s\n", name, base64.StdEncoding.EncodeToString(blob))
		last, kept = now, append(bytes.Clone(text), line...)
		fmt.Fprint(w, line)
	})
	mux.HandleFunc("GET /{log}/checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		w.Write(kept)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	say(map[string]any{
		"url":  "http://" + listener.Addr().String(),
		"vkey": fmt.Sprintf("%s+%08x+%s", name, hash, base64.StdEncoding.EncodeToString(raw)),
	})
	return http.Serve(listener, mux)
}

func mustVerifier(vkey string) note.Verifiers {
	verifier, _ := note.NewVerifier(vkey)
	return note.VerifierList(verifier)
}
