//! Who may log in, and by what.
use std::path::PathBuf;

use serde_saphyr::Spanned;

use super::Meaning;
use super::written::Written;
use crate::authorized_keys::KeysPath;
use crate::config_error::ConfigError;
use crate::login::LoginFiles;
use crate::methods::{Chain, MAX_CHAINS, Method, Methods};

impl Meaning<'_> {
    pub(super) fn login(&self, written: &Written) -> Result<LoginFiles, ConfigError> {
        let keys = written.authorized_keys.as_ref();
        let (passwords, totp) = (written.passwords.as_ref(), written.totp.as_ref());
        let absolute = |files: &[Spanned<PathBuf>]| {
            files
                .iter()
                .map(|file| self.absolute(file))
                .collect::<Result<_, _>>()
        };
        Ok(LoginFiles {
            authorized_keys: keys.map(|path| self.keys_path(path)).transpose()?,
            user_ca: absolute(&written.user_ca)?,
            revoked_keys: absolute(&written.revoked_keys)?,
            passwords: passwords.map(|file| self.absolute(file)).transpose()?,
            totp: totp.map(|file| self.absolute(file)).transpose()?,
            methods: self.methods(written)?,
            port_forwarding: written.port_forwarding.unwrap_or(true),
        })
    }

    /// Each has what it needs, and everything that is given is needed.
    fn methods(&self, written: &Written) -> Result<Methods, ConfigError> {
        let methods = match &written.methods {
            Some(chains) => self.chains(chains)?,
            None => Methods::default(),
        };
        let files = [
            (Method::Password, "passwords", &written.passwords),
            (Method::Totp, "totp", &written.totp),
        ];
        for (method, key, file) in files {
            let name = method.name();
            match (methods.has(method), file, &written.methods) {
                (true, None, Some(chains)) => {
                    let words = format!("`methods` asks for {name}, but `{key}` is missing");
                    let hint = format!("for example  {key}: /etc/adit/{key}");
                    return Err(self.error(chains, words, Some(&hint)));
                }
                (false, Some(file), _) => {
                    let words = format!("`{key}` is used by no chain of `methods`");
                    let hint = format!("for example  methods: [\"publickey,{name}\"]");
                    return Err(self.error(file, words, Some(&hint)));
                }
                (true, _, _) | (false, None, _) => {}
            }
        }
        Ok(methods)
    }

    fn chains(&self, written: &Spanned<Vec<Spanned<String>>>) -> Result<Methods, ConfigError> {
        let hint = r#"methods, separated by commas, all of which are asked for: "publickey,totp", "publickey,password", "password,totp""#;
        if written.value.is_empty() || written.value.len() > MAX_CHAINS {
            let words = format!("`methods` has 1 to {MAX_CHAINS} chains");
            return Err(self.error(written, words, Some(hint)));
        }
        let mut chains = Vec::new();
        for text in &written.value {
            let chain: Chain = text
                .value
                .parse()
                .map_err(|why| self.error(text, format!("{:?}: {why}", text.value), Some(hint)))?;
            chains.push((text, chain));
        }
        let methods = Methods::new(chains.iter().map(|(_, chain)| chain.clone()).collect());
        for (text, chain) in &chains {
            if let Some(shorter) = methods.shorter(chain) {
                let words = format!(
                    "{:?} asks for nothing more: \"{shorter}\" alone lets in already",
                    text.value
                );
                let hint = format!("leave \"{shorter}\" out, or this one");
                return Err(self.error(*text, words, Some(&hint)));
            }
        }
        Ok(methods)
    }

    fn keys_path(&self, path: &Spanned<String>) -> Result<KeysPath, ConfigError> {
        path.value.parse().map_err(|error| {
            let hint = "an absolute path with %u for the user's name, once: /etc/adit/keys/%u";
            self.error(path, format!("{error}"), Some(hint))
        })
    }
}
