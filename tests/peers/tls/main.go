// A TLS server of Go's standard library: it takes client certificates of one authority and reads its
// revocation list at each handshake. For tests.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	address, certificate, key, authority, list := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	text, err := os.ReadFile(authority)
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(text)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	living := func(_ [][]byte, chains [][]*x509.Certificate) error {
		der, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		if err := crl.CheckSignatureFrom(ca); err != nil {
			return err
		}
		for _, entry := range crl.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(chains[0][0].SerialNumber) == 0 {
				return errors.New("revoked")
			}
		}
		return nil
	}
	server := &http.Server{
		Addr: address,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: roots, VerifyPeerCertificate: living,
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello", r.TLS.PeerCertificates[0].Subject.CommonName)
		}),
	}
	log.Fatal(server.ListenAndServeTLS(certificate, key))
}
