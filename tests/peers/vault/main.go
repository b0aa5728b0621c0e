// A Vault server with the few engines that the tests use, for tests only: it initialises and
// unseals itself, and keeps its root token and unseal key readable beside its data.
//
//	vault -listen 127.0.0.1:0 -ready FILE [-raft DIR] [-audit FILE] [-tls CERT,KEY]
//
// Without -raft everything is in memory. FILE is written by rename once the server answers:
// {"addr","root_token"}.
package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/aws"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/ssh"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// registry finds the one plugin that is built in.
type registry struct{}

const postgres = "postgresql-database-plugin"

func (registry) Contains(name string, kind consts.PluginType) bool {
	return kind == consts.PluginTypeDatabase && name == postgres
}

func (r registry) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	return postgresql.New, r.Contains(name, kind)
}

func (registry) Keys(kind consts.PluginType) []string {
	if kind == consts.PluginTypeDatabase {
		return []string{postgres}
	}
	return nil
}

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

// secrets are what a server needs to come up again.
type secrets struct {
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:0", "address of the API")
	ready := flag.String("ready", "", "file written when the server answers")
	folder := flag.String("raft", "", "folder of durable storage; empty: in memory")
	auditFile := flag.String("audit", "", "file of the audit device; empty: none")
	pair := flag.String("tls", "", "certificate and key files, with a comma")
	level := flag.String("log", "error", "log level")
	flag.Parse()
	if *ready == "" {
		return errors.New("-ready is missing")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	scheme := "http"
	if *pair != "" {
		certificate, key, _ := strings.Cut(*pair, ",")
		loaded, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return err
		}
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{loaded},
			ClientAuth:   tls.RequestClientCert,
			NextProtos:   []string{"h2", "http/1.1"},
		})
	}
	address := scheme + "://" + listener.Addr().String()
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.LevelFromString(*level)})

	config := &vault.CoreConfig{
		BuiltinRegistry: registry{},
		Logger:          logger,
		DisableMlock:    true,
		RedirectAddr:    address,
		LogicalBackends: map[string]logical.Factory{
			"aws": aws.Factory, "database": database.Factory, "kv": kv.Factory,
			"pki": pki.Factory, "ssh": ssh.Factory, "transit": transit.Factory,
		},
		CredentialBackends: map[string]logical.Factory{
			"approle": approle.Factory, "cert": cert.Factory,
			"jwt": jwt.Factory, "kubernetes": kubernetes.Factory,
		},
		AuditBackends: map[string]audit.Factory{"file": audit.NewFileBackend},
	}
	var clusterAddrs []*net.TCPAddr
	if *folder == "" {
		config.Physical, err = inmem.NewInmem(nil, logger)
		config.StorageType = "inmem"
	} else {
		var cluster *net.TCPAddr
		if cluster, err = freePort(); err != nil {
			return err
		}
		clusterAddrs = []*net.TCPAddr{cluster}
		config.ClusterAddr = "https://" + cluster.String()
		config.StorageType = "raft"
		var storage physical.Backend
		storage, err = raft.NewRaftBackend(map[string]string{"path": *folder, "node_id": "one"}, logger)
		if err == nil {
			config.Physical = storage
			config.HAPhysical = storage.(physical.HABackend)
		}
	}
	if err != nil {
		return err
	}
	core, err := vault.NewCore(config)
	if err != nil {
		return err
	}
	properties := &vault.HandlerProperties{
		Core: core,
		ListenerConfig: &configutil.Listener{
			MaxRequestSize: 32 << 20, MaxRequestDuration: 90 * time.Second,
		},
	}
	if clusterAddrs != nil {
		core.SetClusterListenerAddrs(clusterAddrs)
		core.SetClusterHandler(vaulthttp.Handler.Handler(properties))
	}
	server := &http.Server{Handler: vaulthttp.Handler.Handler(properties)}
	go func() { _ = server.Serve(listener) }()

	kept, err := open(core, *folder)
	if err != nil {
		return err
	}
	if err := healthy(address); err != nil {
		return err
	}
	if *auditFile != "" {
		if err := enableAudit(address, kept.RootToken, *auditFile); err != nil {
			return err
		}
	}
	text, err := json.Marshal(map[string]string{"addr": address, "root_token": kept.RootToken})
	if err != nil {
		return err
	}
	if err := os.WriteFile(*ready+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(*ready+".new", *ready); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	_ = server.Close()
	return core.Shutdown()
}

func freePort() (*net.TCPAddr, error) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer probe.Close()
	return probe.Addr().(*net.TCPAddr), nil
}

// open initialises a fresh server, and unseals it either way.
func open(core *vault.Core, folder string) (*secrets, error) {
	ctx := context.Background()
	file := filepath.Join(folder, "secrets.json")
	kept := &secrets{}
	initialised, err := core.Initialized(ctx)
	if err != nil {
		return nil, err
	}
	if initialised {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, kept); err != nil {
			return nil, err
		}
	} else {
		made, err := core.Initialize(ctx, &vault.InitParams{
			BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
			RecoveryConfig: &vault.SealConfig{},
		})
		if err != nil {
			return nil, err
		}
		kept.RootToken = made.RootToken
		kept.UnsealKey = base64.StdEncoding.EncodeToString(made.SecretShares[0])
		if folder != "" {
			text, err := json.Marshal(kept)
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				return nil, err
			}
		}
	}
	key, err := base64.StdEncoding.DecodeString(kept.UnsealKey)
	if err != nil {
		return nil, err
	}
	_, err = core.Unseal(key)
	return kept, err
}

func client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // Itself, on loopback.
	}}
}

func healthy(address string) error {
	for range 600 {
		answer, err := client().Get(address + "/v1/sys/health")
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("it did not become healthy within 30 s")
}

func enableAudit(address, token, file string) error {
	body, err := json.Marshal(map[string]any{
		"type": "file", "options": map[string]string{"file_path": file},
	})
	if err != nil {
		return err
	}
	request, err := http.NewRequest("PUT", address+"/v1/sys/audit/file", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", token)
	answer, err := client().Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// 400: it is enabled already, from the last time.
	if answer.StatusCode >= 400 && answer.StatusCode != http.StatusBadRequest {
		return fmt.Errorf("the audit device was not enabled: %s", answer.Status)
	}
	return nil
}
