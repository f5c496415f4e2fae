import java.io.ByteArrayInputStream;
import java.io.FileOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;

/** Makes keystores of PEM files: TYPE PASSWORD PEM STORE [PEM STORE]... A file without a key becomes a truststore. */
class Keystore {
    public static void main(String[] arguments) throws Exception {
        char[] password = arguments[1].toCharArray();
        for (int i = 2; i + 1 < arguments.length; i += 2) {
            KeyStore store = KeyStore.getInstance(arguments[0]);
            store.load(null, password);
            byte[] key = null;
            Certificate certificate = null;
            for (String block : Files.readString(Path.of(arguments[i])).split("-----BEGIN ")) {
                String[] parts = block.split("-----");
                if (parts.length < 2) continue;
                byte[] bytes = Base64.getMimeDecoder().decode(parts[1]);
                if (parts[0].equals("PRIVATE KEY")) key = bytes;
                else certificate = CertificateFactory.getInstance("X.509").generateCertificate(new ByteArrayInputStream(bytes));
            }
            if (key == null) {
                store.setCertificateEntry("ca", certificate);
            } else {
                PrivateKey own = KeyFactory.getInstance("EC").generatePrivate(new PKCS8EncodedKeySpec(key));
                store.setKeyEntry("own", own, password, new Certificate[] {certificate});
            }
            try (FileOutputStream file = new FileOutputStream(arguments[i + 1])) {
                store.store(file, password);
            }
        }
    }
}
